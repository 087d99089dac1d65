/** Curves by layer as a Plotly figure, each with the band of its interval. */

import { faint, style } from "./colors.js";
import { byChance } from "./curves-data.js";
import { inPlotly, partitionName, withInterval } from "./words.js";

const MOST_TICKS = 14;
const WORDS = {
  matched: "matched",
  baseline: "baseline",
  concept_purity: "same concept",
  language_purity: "same language",
};

/** What a curve is called. */
export function curveName({ x, y, metric, directed, showMetric }) {
  const of = !y || y === "*" ? partitionName(x) : `${short(x)} ${directed ? "→" : "–"} ${short(y)}`;
  return showMetric ? `${of}, ${WORDS[metric] ?? metric}` : of;
}

function short(partition) {
  return partition.length > 18 ? `${partition.slice(0, 17)}…` : partition;
}

/** The figure: data and layout. */
export function curveFigure(curves, layers, axis) {
  return {
    data: curves.flatMap((curve) => traces(curve, layers)),
    layout: {
      height: 460,
      margin: { l: 60, r: 16, t: 12, b: 52 },
      hovermode: "x unified",
      showlegend: curves.length > 1 || curves[0].showMetric,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      xaxis: { ...layerAxis(layers), unifiedhovertitle: { text: "layer %{x}" } },
      yaxis: { title: { text: inPlotly(axis), standoff: 10 }, automargin: true },
    },
  };
}

/** The axis of layers, which stand at their places. */
export function layerAxis(layers) {
  const step = Math.ceil(layers.length / MOST_TICKS);
  const ticks = layers.map((_, place) => place).filter((place) => place % step === 0);
  return {
    title: { text: "layer", standoff: 8 },
    tickvals: ticks,
    ticktext: ticks.map((place) => inPlotly(layers[place])),
    range: [-0.5, layers.length - 0.5],
  };
}

function traces(curve, layers) {
  const { color, dash } = style(curve.place);
  const rows = layers.map((layer) => curve.points.get(layer) ?? null);
  const x = rows.map((_, place) => place);
  const of = (name) => rows.map((row) => (row && Number.isFinite(row[name]) ? row[name] : null));
  const name = inPlotly(curveName(curve));
  const edge = {
    type: "scatter",
    mode: "lines",
    x,
    line: { width: 0, shape: "linear" },
    hoverinfo: "skip",
    showlegend: false,
    legendgroup: name,
  };
  const chance = rows.map(byChance);
  const found = [];
  if (of("low").some((value) => value !== null)) {
    found.push({ ...edge, y: of("low") }, { ...edge, y: of("high"), fill: "tonexty", fillcolor: faint(color, 0.16) });
  }
  if (chance.some((value) => value !== null)) {
    found.push({ ...edge, y: chance, line: { width: 1, color: color, dash: "dot" }, opacity: 0.7 });
  }
  found.push({
    type: "scatter",
    mode: "lines+markers",
    x,
    y: of("value"),
    name,
    legendgroup: name,
    line: { color: color, width: 2, dash: curve.second ? "dash" : dash },
    marker: {
      color: color,
      size: 6,
      symbol: rows.map((row) => `${curve.second ? "square" : "circle"}${row?.resolved === false ? "-open" : ""}`),
    },
    text: rows.map(
      (row) =>
        row &&
        `${name}: ${withInterval(row.value, row.low, row.high)}${row.resolved === false ? ", not resolved" : ""}`,
    ),
    hovertemplate: "%{text}<extra></extra>",
  });
  return found;
}
