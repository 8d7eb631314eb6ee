"use strict";
// Texts: what of them is the answer, and how much each piece acts.

const LONG = 500; // characters from which a training text is folded
const FAINT = 10; // percent of the strongest piece below which none is marked

function plainText(text) {
  const special = new Set(text.special);
  return text.pieces.filter((_, i) => !special.has(i)).join("").trim();
}

/** A text's beginning for a list; of a prompt with an answer both, the answer below. */
function brief(text) {
  const own = new Set(text.answer), special = new Set(text.special);
  const part = (wanted) => shortened(text.pieces.filter((_, i) => !special.has(i) && own.has(i) === wanted).join(""));
  if (text.answer === null) return shortened(plainText(text));
  return el("span", {}, el("span", { class: "quiet" }, part(false)), el("br"), part(true));
}

/** The column of texts in a list, where rows are texts. */
function textColumn(rows, at) {
  if (!rows.texts) return [];
  return [{ name: "text", value: (item) => plainText(rows.texts[at(item)]), cell: (item) => brief(rows.texts[at(item)]) }];
}

function shortened(words) {
  const text = words.trim().replace(/\s+/g, " ");
  return text.length <= 90 ? text : text.slice(0, 89) + "…";
}

/** The pieces of a text; `weights` colours them, the strongest fully. */
function piecesOf(text, weights) {
  const own = text.answer === null ? null : new Set(text.answer), special = new Set(text.special);
  const top = weights ? Math.max(...weights.map((weight) => Math.abs(weight ?? 0))) : 0;
  const nodes = text.pieces.map((piece, i) => {
    const weight = weights ? weights[i] ?? 0 : 0;
    const much = top > 0 ? Math.round((100 * Math.abs(weight)) / top) : 0;
    const classes = [
      own && !own.has(i) && "prompt", special.has(i) && "special", much >= FAINT && (weight > 0 ? "for" : "against"),
      much >= FAINT && /^\s*\n\s*$/.test(piece) && "break",
    ].filter(Boolean);
    const begins = own && own.has(i) && !own.has(i - 1) ? el("span", { class: "begins" }) : null;
    return [begins, el("span", { class: classes.join(" ") || null, style: much >= FAINT ? `--much:${much}%` : null,
      title: weights ? signed(weight) : null }, piece)];
  });
  return [leftOut(text.before, "before"), ...nodes.flat(), leftOut(text.after, "after")].filter(Boolean);
}

function leftOut(count, where) {
  return count ? el("span", { class: "left-out" }, `[${count.toLocaleString("en")} tokens ${where} this are not shown]`) : null;
}

function textBox(text, weights) {
  return el("div", { class: "text" }, piecesOf(text, weights));
}

/** A query's text over the training texts behind it; the one chosen marks what of the query it acts on. */
function textsBehind(page, i) {
  const { queries, train } = page, answer = page.answers[i];
  const ranked = [...answer.helpful, ...answer.harmful];
  const most = Math.max(...ranked.map(([, value]) => Math.abs(value)), 0);
  const byPiece = Object.keys(answer.pieces).length > 0;
  const asked = el("div", { class: "text", tabindex: "0", role: "region", "aria-label": "The query" });
  const told = el("p", { class: "quiet", role: "status" });
  const cards = new Map();
  function choose(row) {
    for (const [other, card] of cards) {
      card.classList.toggle("chosen", other === row);
      card.querySelector(".choose").setAttribute("aria-pressed", String(other === row));
    }
    asked.replaceChildren(...piecesOf(queries.texts[i], answer.onQuery[row]));
    told.textContent = row === null ? "" : `Coloured by what example ${shown(train.labels[row])} does to it; choose another below.`;
  }
  const sides = ["helpful", "harmful"].map((side) => el("div", { class: "side " + side },
    el("h3", {}, side === "helpful" ? "Helpful examples (proponents)" : "Harmful examples (opponents)"),
    answer[side].length === 0 ? el("p", { class: "quiet" }, "none") : answer[side].map(([row, value], rank) => {
      const card = textCard(page, answer, row, value, most, rank + 1, byPiece ? () => choose(row) : null);
      if (byPiece) cards.set(row, card);
      return card;
    })));
  choose(byPiece && ranked.length ? ranked[0][0] : null);
  return el("section", {}, el("div", { class: "asked" }, asked, byPiece ? told : null),
    legend(byPiece, queries.texts[i].answer !== null || train.texts.some((text) => text.answer !== null)),
    el("div", { class: "two" }, sides));
}

function legend(byPiece, prompts) {
  const sample = (name, word) => el("span", { class: "text-sample" }, el("span", { class: name, style: "--much:90%" }, word));
  return el("p", { class: "legend" },
    byPiece ? [sample("for", "helps"), " ", sample("against", "harms"), " the darker the more, within a text. "] : null,
    prompts ? [el("span", { class: "begins" }), " begins what was to be said. "] : null,
    byPiece ? "A token stands for its place: what is read there and said next." : null);
}

function textCard(page, answer, row, value, most, rank, onChoose) {
  const { train } = page, text = train.texts[row];
  const box = textBox(text, answer.pieces[row]);
  const name = `${rank}. example ${shown(train.labels[row])}`;
  const head = onChoose ? el("button", { type: "button", class: "link choose", "aria-pressed": "false", onclick: onChoose,
    title: "Show what of the query it acts on" }, name) : el("strong", {}, name);
  const card = el("div", { class: "card" }, el("div", { class: "head" }, head, influenceBar(value, most)), box,
    factLine(train.facts.names, train.facts.rows[row]));
  if (plainText(text).length > LONG) card.lastChild.before(folding(box));
  return card;
}

function factLine(names, values) {
  return el("p", { class: "quiet small" }, names.map((name, i) => `${name} ${shown(values[i])}`).join(" · "));
}

/** Folds a box, and a button that opens and folds it. */
function folding(box) {
  const button = el("button", { type: "button", class: "link small", onclick: () => fold(box.classList.contains("open")) });
  function fold(closed) {
    box.classList.toggle("folded", closed);
    box.classList.toggle("open", !closed);
    button.textContent = closed ? "Show all of it" : "Show less";
    button.setAttribute("aria-expanded", String(!closed));
  }
  fold(true);
  return button;
}
