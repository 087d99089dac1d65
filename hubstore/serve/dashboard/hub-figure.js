/** The hub curve and the heat map beside it, as Plotly figures, and a small map of a kept projection. */

import { faint, ours, scale, style } from "./colors.js";
import { layerAxis } from "./curves-figure.js";
import { categories } from "./map-data.js";
import { inPlotly, number, partitionLabel } from "./words.js";

const ROW = 20; // pixels of a heat map's row
const MOST_DRAWN = 2000; // points of the small map

/** The mean of all pairs with the band that holds half of them, each pair faint. */
export function hubFigure(hub, layers, axis) {
  const x = layers.map((_, place) => place);
  const accent = ours("--accent");
  const line = { type: "scatter", mode: "lines", x, showlegend: false };
  const edge = { ...line, line: { width: 0 }, hoverinfo: "skip" };
  const pairs = hub.others.map(({ name, values }) => ({
    ...line,
    y: values,
    line: { width: 1, color: faint(accent, 0.25) },
    name: inPlotly(partitionLabel(name)),
    hovertemplate: "%{fullData.name}, layer %{text}: %{y:.3f}<extra></extra>",
    text: layers,
  }));
  const band = [
    { ...edge, y: hub.low },
    { ...edge, y: hub.high, fill: "tonexty", fillcolor: faint(accent, 0.16) },
  ];
  const chance = { ...line, y: hub.chance, line: { width: 1, dash: "dot", color: ours("--soft") }, hoverinfo: "skip" };
  const mean = {
    ...line,
    mode: "lines+markers",
    y: hub.mean,
    line: { width: 3, color: accent },
    marker: { size: 6, color: accent },
    text: layers.map((_, i) => `mean ${number(hub.mean[i])}, half between ${number(hub.low[i])} and ${number(hub.high[i])}`),
    hovertemplate: "%{text}<extra></extra>",
  };
  return {
    data: [...(hub.others.length > 1 ? [...pairs, ...band] : []), chance, mean],
    layout: {
      height: 320,
      margin: { l: 60, r: 12, t: 8, b: 48 },
      hovermode: "closest",
      xaxis: layerAxis(layers),
      yaxis: { title: { text: inPlotly(axis), standoff: 8 }, rangemode: "tozero", automargin: true },
    },
  };
}

/** Every pair by layer: a row for each partition, the highest first. */
export function heatFigure(hub, layers) {
  const top = ({ values }) => Math.max(...values.filter((value) => value !== null));
  const rows = [...hub.others].sort((a, b) => top(a) - top(b)); // drawn from below
  return {
    data: [
      {
        type: "heatmap",
        z: rows.map((one) => one.values),
        x: layers.map((_, place) => place),
        y: rows.map((one) => inPlotly(partitionLabel(one.name))),
        text: rows.map(() => layers),
        colorscale: scale().map((color, i) => [i, color]),
        colorbar: { thickness: 10, outlinewidth: 0, tickfont: { color: ours("--soft") } },
        hovertemplate: "%{y}, layer %{text}: %{z:.3f}<extra></extra>",
      },
    ],
    layout: {
      height: Math.max(160, ROW * rows.length + 70),
      margin: { l: 120, r: 12, t: 8, b: 48 },
      xaxis: layerAxis(layers),
      yaxis: { automargin: true, showgrid: false },
    },
  };
}

/** A few points of a kept projection, by language. */
export function smallMap({ items, count, places }, layer) {
  const { names, of } = categories(items.language);
  const points = places.get(layer);
  const step = Math.ceil(count / MOST_DRAWN);
  const traces = names.map((name, place) => ({
    type: "scatter",
    mode: "markers",
    x: [],
    y: [],
    name: inPlotly(partitionLabel(name)),
    text: [],
    hovertemplate: "%{fullData.name}: %{text}<extra></extra>",
    marker: { size: 4, color: style(place).color, opacity: 0.7 },
    showlegend: false,
  }));
  for (let i = 0; i < count; i += step) {
    const trace = traces[of[i]];
    trace.x.push(points[2 * i]);
    trace.y.push(points[2 * i + 1]);
    trace.text.push(inPlotly(items.text[i] ?? items.id[i], 60));
  }
  const bare = { visible: false, range: [-1.1, 1.1] };
  return {
    data: traces,
    layout: { height: 320, margin: { l: 0, r: 0, t: 8, b: 8 }, hovermode: "closest", xaxis: bare, yaxis: bare },
  };
}
