/** Beside the lens: in which language it reads a partition's states, layer by layer, where the store keeps that. */

import { get, records, storePath } from "./api.js";
import { style } from "./colors.js";
import { layerAxis } from "./curves-figure.js";
import { h } from "./dom.js";
import { Figure } from "./plot.js";
import { inPlotly, languageName, number, partitionName } from "./words.js";

/** What the store keeps of trends, or null. */
export function keptTrends(info) {
  return info.analyses.find((one) => one.analysis === "trends" && one.current) ?? null;
}

/**
 * The figure of a partition; of the first where the table has no such.
 * @returns {Promise<{node: Node, close: () => void}>}
 */
export async function trendsOf(store, info, partition, signal) {
  const { key } = keptTrends(info);
  const rows = records(await get(storePath(store, "analyses", "trends", key), {}, signal));
  const x = rows.some((row) => row.x === partition) ? partition : rows[0].x;
  const own = rows.filter((row) => row.x === x);
  const layers = info.layers.filter((layer) => own.some((row) => row.layer === layer));
  const languages = [...new Set(own.map((row) => row.language))];
  const label = `In which language the lens reads ${partitionName(x)}`;
  const figure = new Figure(label);
  figure.draw(() => ({
    data: languages.map((language, place) => line(own, layers, language, place)),
    layout: {
      height: 300,
      margin: { l: 46, r: 8, t: 8, b: 44 },
      hovermode: "closest",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
      xaxis: layerAxis(layers),
      yaxis: { title: { text: "p(language)", standoff: 6 }, rangemode: "tozero", automargin: true },
    },
  }));
  return { node: h("figure", {}, h("figcaption", {}, label), figure.node), close: () => figure.close() };
}

function line(rows, layers, language, place) {
  const { color, dash } = style(place);
  const byLayer = new Map(rows.filter((row) => row.language === language).map((row) => [row.layer, row.value]));
  return {
    type: "scatter",
    mode: "lines",
    name: inPlotly(languageName(language)),
    x: layers.map((_, i) => i),
    y: layers.map((layer) => byLayer.get(layer) ?? null),
    line: { color, dash, width: 2 },
    text: layers.map((layer) => `${inPlotly(languageName(language))}, layer ${layer}: ${number(byLayer.get(layer))}`),
    hovertemplate: "%{text}<extra></extra>",
  };
}
