"use strict";
// Puts the views together: tabs, keys, colours.

(function () {
  const page = JSON.parse(document.getElementById("content").textContent);
  const main = document.getElementById("main"), tabs = document.getElementById("tabs");
  const views = [];
  if (page.queries) views.push({ name: "Queries", make: () => queriesView(page) });
  if (page.suspects) views.push({ name: page.train && page.train.texts ? "Training examples" : "Training rows", make: () => suspectsView(page) });
  for (const figure of page.figures) views.push({ name: figure.title, make: () => ({ node: figureView(figure) }) });
  views.push({ name: "About", make: () => ({ node: aboutView(page) }) });

  function open(at) {
    const view = views[at];
    if (!view.made) view.made = view.make();
    views.open = at;
    main.replaceChildren(el("div", { role: "tabpanel", id: "panel", "aria-labelledby": "tab-" + at }, view.made.node));
    [...tabs.children].forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === at));
      tab.tabIndex = i === at ? 0 : -1;
    });
    requestAnimationFrame(redrawCharts);
  }

  views.forEach((view, i) => tabs.append(el("button", { role: "tab", type: "button", id: "tab-" + i, "aria-controls": "panel", onclick: () => open(i) }, view.name)));
  tabs.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = (views.open + by + views.length) % views.length;
    open(next);
    tabs.children[next].focus();
  });

  const theme = document.getElementById("theme"), keys = document.getElementById("keys");
  function paint(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    theme.textContent = dark ? "Light" : "Dark";
    redrawCharts();
  }
  const flip = () => paint(document.documentElement.dataset.theme !== "dark");
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", () => paint(system.matches));
  theme.addEventListener("click", flip);
  document.getElementById("help").addEventListener("click", () => keys.showModal());

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("select, textarea, input:not([type=checkbox])");
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    if (typing) { if (event.key === "Escape") event.target.blur(); return; }
    const view = views[views.open].made;
    if (event.key === "/" && view.search) { event.preventDefault(); view.search.focus(); }
    else if (event.key === "j" && view.step) view.step(1);
    else if (event.key === "k" && view.step) view.step(-1);
    else if (event.key === "t") flip();
    else if (event.key === "?") keys.showModal();
    else if (/^[1-9]$/.test(event.key) && event.key <= views.length) open(event.key - 1);
  });

  paint(system.matches);
  open(0);
})();

/** Training rows as a list, the most suspect first; picking one shows its features. */
function suspectsView(page) {
  const { train, suspects } = page;
  const detail = el("div", { class: "detail", "aria-live": "polite" });
  const what = train.texts ? "example" : "row";
  const columns = [{ name: what, value: (row) => train.labels[row] }, ...textColumn(train, (row) => row),
    ...train.facts.names.map((name, i) => ({ name, value: (row) => train.facts.rows[row][i] ?? null }))];
  const says = train.facts.names.indexOf("says without it"), target = train.facts.names.indexOf("target");
  const filters = !page.classes || says < 0 || target < 0 ? [] : [{ name: "only those the model would label otherwise",
    keep: (row) => train.facts.rows[row][says] !== null && String(train.facts.rows[row][says]) !== String(train.facts.rows[row][target]) }];
  const table = makeTable({
    caption: `Training ${what}s`, columns, items: suspects.rows, key: (row) => String(row), fileName: "rows.csv", filters,
    onPick: (row) => {
      const parts = [el("h2", {}, `Training ${what} ` + shown(train.labels[row])), factList(train.facts.names, train.facts.rows[row])];
      if (train.features) parts.push(featureTable(train.features, row));
      if (train.texts) parts.push(textBox(train.texts[row]));
      detail.replaceChildren(...parts);
    },
  });
  if (suspects.rows.length) table.pick(String(suspects.rows[0]));
  return { node: el("div", {}, el("p", {}, suspects.told), el("div", { class: "split rows" }, el("div", { class: "list" }, table.node), detail)),
    search: table.search, step: table.step };
}

function featureTable(features, row) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Features" },
    el("table", {}, el("caption", {}, "Features"), el("tbody", {}, features.names.map((name, f) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, shown(features.rows[row][f])))))));
}

function aboutView(page) {
  return el("section", {}, el("h2", {}, "About this page"),
    el("dl", { class: "about" }, page.about.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, shown(value))])),
    page.notes.length ? [el("h3", {}, "What it leaves out"), el("ul", {}, page.notes.map((note) => el("li", {}, note)))] : null);
}
