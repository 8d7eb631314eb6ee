"use strict";

const AT_ONCE = 200; // rows drawn at a time
const SHORT = 15; // rows from which a table can be searched

/**
 * A table with search, sorting, filters, selection and export.
 *
 * columns: [{name, value(item), cell(item, value)?}]; `cell` makes what stands in the table.
 * filters: [{name, keep(item)}], each a box to tick. onPick(item) makes rows ones to pick.
 * key(item) names an item. Returns {node, search, pick(key), step(by), shownItems()}.
 */
function makeTable({ caption, columns, items, key, onPick, filters = [], fileName, order = null }) {
  const state = { text: "", on: new Set(), sort: order, chosen: new Set(), limit: AT_ONCE, picked: null, drawn: [] };
  const search = el("input", { type: "search", placeholder: "Search", "aria-label": "Search: " + caption });
  const count = el("span", { class: "quiet", role: "status" });
  const body = el("tbody");
  const more = el("button", { type: "button", onclick: () => { state.limit += AT_ONCE; draw(); } });
  const numeric = columns.map((column) => items.some((item) => typeof column.value(item) === "number")
    && items.every((item) => column.value(item) === null || typeof column.value(item) === "number"));
  const texts = new Map(items.map((item) =>
    [item, columns.map((column) => shown(column.value(item))).join(" ").toLowerCase()]));

  const all = el("input", { type: "checkbox", "aria-label": "Select all shown",
    onchange: () => { for (const item of kept()) state.chosen[all.checked ? "add" : "delete"](key(item)); mark(); } });
  const heads = columns.map((column, i) => el("th", { scope: "col", class: numeric[i] ? "number" : null },
    el("button", { type: "button", onclick: () => { sortBy(i); } }, column.name)));

  function kept() {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = items.filter((item) =>
      filters.every((filter, i) => !state.on.has(i) || filter.keep(item))
      && words.every((word) => texts.get(item).includes(word)));
    if (state.sort === null) return found;
    const { column, falling } = state.sort;
    const value = columns[column].value;
    return found.sort((a, b) => compared(value(a), value(b), falling));
  }

  function sortBy(column) {
    const falling = state.sort !== null && state.sort.column === column ? !state.sort.falling : numeric[column];
    state.sort = { column, falling };
    draw();
  }

  function draw() {
    const found = kept();
    state.drawn = found.slice(0, state.limit).map(line);
    body.replaceChildren(...state.drawn.map(({ row }) => row));
    more.hidden = found.length <= state.limit;
    more.textContent = `Show more (${Math.min(state.limit, found.length)} of ${found.length})`;
    heads.forEach((head, i) => {
      const sorted = state.sort !== null && state.sort.column === i;
      head.setAttribute("aria-sort", sorted ? (state.sort.falling ? "descending" : "ascending") : "none");
      head.firstChild.textContent = columns[i].name + (sorted ? (state.sort.falling ? " ▼" : " ▲") : "");
    });
    mark(found);
  }

  /** Shows what is selected and picked in the rows that stand, whose controls keep the focus. */
  function mark(found = kept()) {
    for (const { name, row, box, button } of state.drawn) {
      const isPicked = state.picked === name;
      box.checked = state.chosen.has(name);
      row.classList.toggle("picked", isPicked);
      if (button && isPicked) button.setAttribute("aria-current", "true");
      else if (button) button.removeAttribute("aria-current");
    }
    const selected = found.filter((item) => state.chosen.has(key(item))).length;
    all.checked = selected > 0 && selected === found.length;
    all.indeterminate = selected > 0 && selected < found.length;
    count.textContent = `${found.length} of ${items.length}` + (state.chosen.size ? `, ${state.chosen.size} selected` : "");
  }

  function line(item) {
    const name = key(item);
    let button = null;
    const box = el("input", { type: "checkbox", "aria-label": "Select " + shown(columns[0].value(item)),
      onchange: () => { state.chosen[box.checked ? "add" : "delete"](name); mark(); } });
    const cells = columns.map((column, i) => {
      const value = column.value(item);
      let inside = column.cell ? column.cell(item, value) : shown(value);
      if (i === 0 && onPick) {
        inside = button = el("button", { type: "button", class: "link",
          onclick: (event) => { event.stopPropagation(); pick(name); } }, inside);
      }
      return el("td", { class: numeric[i] ? "number" : null }, inside);
    });
    const row = el("tr", { class: onPick ? "can-pick" : null, "data-key": name },
      el("td", {}, box), cells);
    if (onPick) row.addEventListener("click", (event) => { if (event.target !== box) pick(name); });
    return { name, row, box, button };
  }

  function pick(name) {
    const item = items.find((candidate) => key(candidate) === name);
    if (item === undefined) return;
    state.picked = name;
    if (state.drawn.some((one) => one.name === name)) mark();
    else draw();
    const row = body.querySelector(".picked");
    if (row) row.scrollIntoView({ block: "nearest" });
    onPick(item);
  }

  function step(by) {
    const found = kept();
    const at = found.findIndex((item) => key(item) === state.picked);
    const next = found[Math.max(0, Math.min(found.length - 1, at + by))];
    if (next !== undefined) {
      state.limit = Math.max(state.limit, found.indexOf(next) + 1);
      pick(key(next));
    }
  }

  function exported() {
    const found = kept();
    const chosen = state.chosen.size ? items.filter((item) => state.chosen.has(key(item))) : found;
    saveCsv(fileName, columns.map((column) => column.name), chosen.map((item) => columns.map((column) => column.value(item))));
  }

  search.addEventListener("input", () => { state.text = search.value; state.limit = AT_ONCE; draw(); });
  const boxes = filters.map((filter, i) => {
    const box = el("input", { type: "checkbox", onchange: () => { state.on[box.checked ? "add" : "delete"](i); draw(); } });
    return el("label", {}, box, " ", filter.name);
  });
  draw();
  const node = el("div", {},
    el("div", { class: "bar-of-tools" }, items.length > SHORT ? search : null, boxes, count,
      el("button", { type: "button", class: "csv", title: "The selected rows; without a selection, those shown", onclick: exported }, "CSV")),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, el("th", {}, all), heads)), body)),
    more);
  return { node, search, pick, step };
}

/** Missing values last, whichever way it is sorted. */
function compared(a, b, falling) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return falling ? -order : order;
}
