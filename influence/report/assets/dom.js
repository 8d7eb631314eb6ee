"use strict";
// Small pieces that all views are built of. Text of the user's is only ever set as text.

/** An element with attributes, handlers ("onclick") and children; null children are left out. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

const MISSING = "missing";

/** A value for people: four digits of a fraction, whole numbers as they are. */
function shown(value) {
  if (value === null || value === undefined) return MISSING;
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 4)));
}

/** An influence or a change: its sign and three digits. */
function signed(value) {
  return value === null ? MISSING : (value > 0 ? "+" : "") + shown(Number(value.toPrecision(3)));
}

/** A bar as long as |value| is of `most`, and the number. */
function influenceBar(value, most) {
  const share = most > 0 && value !== null ? Math.abs(value) / most : 0;
  return el(
    "span", { class: "influence " + (value < 0 ? "harmful" : "helpful") },
    el("span", { class: "track", "aria-hidden": "true" },
      el("i", { style: `width:${(100 * share).toFixed(1)}%` })),
    el("span", { class: "value" }, signed(value)),
  );
}

function factList(names, values) {
  return el("dl", { class: "facts" },
    names.map((name, i) => el("div", {}, el("dt", {}, name), el("dd", {}, shown(values[i])))));
}

/** Saves rows of cells as a CSV file. What a spreadsheet would run as a formula is made text. */
function saveCsv(fileName, names, rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const text = [names, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = el("a", { href: url, download: fileName });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
