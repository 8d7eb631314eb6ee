"use strict";
// The view of queries: a list, and for the one picked the rows behind it.

const SIDE = { helpful: "Helpful rows (proponents)", harmful: "Harmful rows (opponents)" };
const CLOSE = 0.1; // numbers agree within this many standard deviations

function queriesView(page) {
  const { queries } = page;
  const detail = el("div", { class: "detail", "aria-live": "polite" });
  const items = queries.labels.map((label, i) => ({ i, label, facts: queries.facts.rows[i] || [] }));
  const { names } = queries.facts;
  const columns = [{ name: "query", value: (item) => item.label },
    ...textColumn(queries, (item) => item.i),
    ...names.map((name, i) => ({ name, value: (item) => item.facts[i] ?? null }))];
  const table = makeTable({
    caption: "Queries", columns, items, key: (item) => String(item.i), fileName: "queries.csv",
    filters: page.classes ? mistakes(names) : [], onPick: (item) => {
      detail.replaceChildren(...queryDetail(page, item.i));
      if (matchMedia("(max-width: 820px)").matches && detail.dataset.seen) detail.scrollIntoView();
      detail.dataset.seen = "yes";
      history.replaceState(null, "", "#query-" + item.i);
    },
  });
  const node = el("div", { class: "split" }, el("div", { class: "list" }, table.node), detail);
  const asked = /^#query-(\d+)$/.exec(location.hash);
  table.pick(asked && asked[1] < items.length ? asked[1] : "0");
  return { node, search: table.search, step: table.step };
}

/** A filter for what was predicted wrongly; only of classes, as every number is a little off. */
function mistakes(names) {
  const says = names.indexOf("prediction"), truth = names.indexOf("truth");
  if (says < 0 || truth < 0) return [];
  return [{ name: "only mistakes", keep: (item) => String(item.facts[says]) !== String(item.facts[truth]) }];
}

function queryDetail(page, i) {
  const { queries, train } = page, answer = page.answers[i];
  const parts = [el("h2", {}, "Query " + shown(queries.labels[i])), factList(queries.facts.names, queries.facts.rows[i] || [])];
  parts.push((queries.texts && train.texts ? textsBehind : rowsBehind)(page, i));
  if (queries.features && train.features) parts.push(beside(page, i));
  parts.push(...without(page, i));
  if (answer.helpfulSums) parts.push(...cumulated(page, answer));
  return parts;
}

function rowsBehind(page, i) {
  const answer = page.answers[i];
  const most = Math.max(...[...answer.helpful, ...answer.harmful].map(([, value]) => Math.abs(value)), 0);
  return el("div", { class: "two" }, ["helpful", "harmful"].map((side) => el("div", { class: "side " + side },
    el("h3", {}, SIDE[side]),
    answer[side].length === 0 ? el("p", { class: "quiet" }, "none") : rankedTable(page, side, answer[side], most))));
}

function rankedTable(page, side, ranked, most) {
  const { train } = page;
  return makeTable({
    caption: SIDE[side], fileName: side + ".csv", items: ranked, key: ([row]) => row,
    columns: [{ name: "row", value: ([row]) => train.labels[row] },
      { name: "influence", value: ([, value]) => value, cell: (_, value) => influenceBar(value, most) },
      ...train.facts.names.map((name, i) => ({ name, value: ([row]) => train.facts.rows[row][i] ?? null }))
        .filter(({ name }) => name === "target" || name === "prediction")],
  }).node;
}

/** The query's features beside those of the strongest rows; what agrees is marked. */
function beside(page, i) {
  const { queries, train, spreads } = page, answer = page.answers[i];
  const holder = el("div");
  let n = matchMedia("(max-width: 820px)").matches ? 2 : 4, only = "all";
  function draw() {
    const rows = [...answer.helpful.slice(0, n).map(([row, v]) => ["helpful", row, v]),
      ...answer.harmful.slice(0, n).map(([row, v]) => ["harmful", row, v])];
    const head = el("tr", {}, el("th", { scope: "col" }, "feature"), el("th", { scope: "col" }, "query " + shown(queries.labels[i])),
      rows.map(([side, row, value]) => el("th", { scope: "col", class: side }, `row ${shown(train.labels[row])}`, el("br"), signed(value))));
    const lines = queries.features.names.map((name, f) => {
      const own = queries.features.rows[i][f], spread = spreads ? spreads[f] : null;
      const ordered = (other) => spread !== null && typeof own === "number" && typeof other === "number";
      const cells = rows.map(([, row]) => {
        const other = train.features.rows[row][f];
        return { other, same: agrees(own, other, spread) };
      });
      const all = cells.every((cell) => cell.same), none = cells.every((cell) => !cell.same);
      if ((only === "agree" && none) || (only === "differ" && all)) return null;
      return el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, shown(own)), cells.map(({ other, same }) => {
        const mark = same ? "=" : ordered(other) ? (other > own ? "▲" : "▼") : "≠";
        const told = same ? "agrees" : mark === "▲" ? "higher" : mark === "▼" ? "lower" : "differs";
        return el("td", { class: same ? "agrees" : "differs" }, el("span", { class: "mark", role: "img", "aria-label": told }, mark), shown(other));
      }));
    });
    holder.replaceChildren(el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Side by side" },
      el("table", { class: "beside" }, el("thead", {}, head), el("tbody", {}, lines))));
  }
  const choice = el("select", { "aria-label": "Which features", onchange: () => { only = choice.value; draw(); } },
    [["all", "all features"], ["agree", "those that agree"], ["differ", "those that differ"]].map(([value, name]) => el("option", { value }, name)));
  const number = el("select", { "aria-label": "Rows of each side", onchange: () => { n = Number(number.value); draw(); } },
    [2, 4, 10].map((count) => el("option", { value: count, selected: count === n }, `${count} rows of each side`)));
  draw();
  return el("section", {}, el("h3", {}, "Side by side"),
    el("p", { class: "quiet" }, `= agrees with the query (numbers: within ${CLOSE} standard deviations), ▲ higher, ▼ lower, ≠ differs.`),
    el("div", { class: "bar-of-tools" }, choice, number), holder);
}

function agrees(a, b, spread) {
  if (a === null || b === null) return a === b;
  if (typeof a === "number" && typeof b === "number") return Math.abs(a - b) <= CLOSE * (spread ?? 0);
  return String(a) === String(b);
}

/** What the model says after the strongest rows are left out. */
function without(page, i) {
  const answer = page.answers[i], { names, rows } = page.queries.facts;
  if (answer.without.length === 0) return [];
  const fact = (name) => rows[i][names.indexOf(name)] ?? null;
  const items = [{ side: "", n: 0, says: fact("prediction"), loss: fact("loss") },
    ...answer.without.flatMap(({ side, removed, says, losses }) =>
      removed.map((n, at) => ({ side, n, says: says[at], loss: losses[at] })))];
  const change = (item) => item.loss === null || items[0].loss === null || item.n === 0 ? null : item.loss - items[0].loss;
  const table = makeTable({
    caption: "Without the strongest rows", fileName: "without.csv", items, key: (item) => item.side + item.n,
    columns: [{ name: "left out", value: (item) => item.n === 0 ? "nothing" : `${item.n} most ${item.side}` },
      { name: "prediction", value: (item) => item.says }, { name: "loss", value: (item) => item.loss },
      { name: "change of loss", value: change, cell: (item, value) => item.n === 0 ? "" : signed(value) }],
  });
  return [el("h3", {}, "The prediction without them"),
    el("p", { class: "quiet" }, "All leaf values computed again without the rows; the structure of the trees stays (LeafRefit)."), table.node];
}

function cumulated(page, answer) {
  const trace = (name, y, tone, dash) => ({ name, x: page.ranks, y, tone, mode: "lines", line: { dash } });
  const what = page.train.texts ? "examples" : "rows";
  return [el("h3", {}, "How influence adds up"),
    el("p", { class: "quiet" }, `Influence of the so many strongest ${what} of each side, added up: a curve that is soon flat means few ${what} matter.`),
    chart(`Cumulated influence by number of ${what}, helpful and harmful`, {
      data: [trace("helpful", answer.helpfulSums, "help", "solid"), trace("harmful", answer.harmfulSums, "harm", "dash")],
      layout: { xaxis: { type: "log", title: { text: what } }, yaxis: { title: { text: "sum of influence" } } },
    })];
}
