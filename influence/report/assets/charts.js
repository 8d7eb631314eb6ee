"use strict";

const DRAWN = new Map(); // node -> figure, to be drawn again when the colours change

/** Draws a Plotly figure in the page's colours; a trace's `tone` names the one it takes. */
function drawChart(node, figure) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue("--" + name).trim();
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("quiet"), linecolor: colour("line"), automargin: true };
  const own = figure.layout || {};
  const layout = {
    ...own,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 50, r: 15, t: 25, b: 45 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
  };
  for (const name of Object.keys({ xaxis: 0, yaxis: 0, ...own })) {
    if (/^[xy]axis\d*$/.test(name)) layout[name] = { ...axis, ...own[name] };
  }
  const traces = figure.data.map((trace) => trace.tone ? toned(trace, colour) : trace);
  DRAWN.set(node, figure);
  Plotly.react(node, traces, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
}

/** A trace in its tone. The tone "diverging" is a scale: blue, the paper at the middle, orange. */
function toned(trace, colour) {
  const { tone, ...rest } = trace;
  if (tone === "diverging") return { ...rest, colorscale: [[0, colour("help")], [0.5, colour("paper")], [1, colour("harm")]] };
  const own = colour(tone);
  return {
    ...rest, line: { ...rest.line, color: own }, marker: { ...rest.marker, color: own },
    ...(rest.fill && { fillcolor: own + "2b" }), // colours of the style have six digits
    ...(rest.error_x && { error_x: { ...rest.error_x, color: colour("text") } }),
  };
}

function redrawCharts() {
  for (const [node, figure] of DRAWN) {
    if (node.isConnected) drawChart(node, figure);
    else { Plotly.purge(node); DRAWN.delete(node); }
  }
}

/** A place for a chart that is drawn once it is on the page; its numbers stand elsewhere too. */
function chart(label, figure) {
  const node = el("div", { class: "chart", role: "figure", "aria-label": label });
  requestAnimationFrame(() => { if (node.isConnected) drawChart(node, figure); });
  return node;
}

function figureView(figure) {
  const { names, rows } = figure.table, { spec, choices } = figure;
  const place = new Map(rows.map((row, i) => [row, i]));
  const table = makeTable({
    caption: figure.title, fileName: "figure.csv", items: rows, key: (row) => String(place.get(row)),
    columns: names.map((name, i) => ({ name, value: (row) => row[i] })),
  });
  const drawn = chart(figure.title + ". The numbers are in the table below.", spec);
  const select = el("select", { onchange: () => {
    const [, traces] = choices[select.selectedIndex];
    drawChart(drawn, { ...spec, data: spec.data.map((trace, i) => ({ ...trace, ...traces[i] })) });
  } }, choices.map(([name]) => el("option", {}, name)));
  return el("section", {}, el("h2", {}, figure.title), el("p", {}, figure.told),
    choices.length ? el("label", {}, "Show ", select) : null, drawn,
    el("details", {}, el("summary", {}, "The numbers"), table.node));
}
