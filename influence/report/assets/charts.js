"use strict";

const DRAWN = new Map(); // node -> figure, to be drawn again when the colours change

/** Draws a Plotly figure in the page's colours. `lines` names the colour of each trace. */
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
    legend: { orientation: "h", y: 1.15 },
  };
  for (const name of Object.keys({ xaxis: 0, yaxis: 0, ...own })) {
    if (/^[xy]axis\d*$/.test(name)) layout[name] = { ...axis, ...own[name] };
  }
  const traces = figure.data.map((trace) => trace.tone ? toned(trace, colour(trace.tone)) : trace);
  DRAWN.set(node, figure);
  Plotly.react(node, traces, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
}

function toned(trace, colour) {
  const { tone, ...rest } = trace;
  return { ...rest, line: { ...rest.line, color: colour }, marker: { ...rest.marker, color: colour } };
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
  const { names, rows } = figure.table;
  const table = makeTable({
    caption: figure.title, fileName: "figure.csv", items: rows, key: (row) => rows.indexOf(row),
    columns: names.map((name, i) => ({ name, value: (row) => row[i] })),
  });
  return el("section", {}, el("h2", {}, figure.title), el("p", {}, figure.told),
    chart(figure.title + ". The numbers are in the table below.", figure.spec),
    el("details", {}, el("summary", {}, "The numbers"), table.node));
}
