/** Experiments: the paper's claims, whether a model shows them, and the numbers behind each verdict. */

import { get, records } from "./api.js";
import { faint, style } from "./colors.js";
import { empty, h } from "./dom.js";
import { downloads, fileName } from "./download.js";
import { modelName } from "./view-overview.js";
import { Pane } from "./pane.js";
import { Figure } from "./plot.js";
import { sibling } from "./state.js";
import { table } from "./table.js";
import { bdi, count, inPlotly, layerLabel, number, withInterval } from "./words.js";

export const title = "Experiments";

const COLUMNS = new Set(["layer", "quantity", "value", "low", "high", "n"]);
const MOST_LINES = 24;

/** Opens the view. */
export function open() {
  const pane = new Pane("Experiments");
  const figures = [];
  const close = () => {
    while (figures.length) figures.pop().close();
  };
  const show = (params) =>
    pane.fill(async (signal) => {
      const { experiments } = await get("api/v1/experiments", {}, signal);
      close();
      if (!experiments.length) return none();
      const chosen = experiments.find((one) => one.name === params.get("experiment"));
      return chosen ? details(chosen, signal, figures) : all(experiments);
    });
  return {
    node: h("div", {}, h("h1", {}, "Experiments"), pane.node),
    show,
    close: () => {
      pane.stop();
      close();
    },
  };
}

function none() {
  return empty("No experiment is served.", [
    "Do some: ",
    h("code", {}, "hubstore experiment --model MODEL --out RESULTS"),
    " and serve them beside the store: ",
    h("code", {}, "hubstore serve STORE --experiments RESULTS"),
  ]);
}

function all(experiments) {
  const models = new Set(experiments.map((one) => modelName(one.model)));
  const columns = [
    {
      name: "claim",
      label: "Claim",
      show: (claim, row) => [
        h("a", { href: sibling("experiments", { experiment: row.name }) }, bdi(row.title)),
        h("p", { class: "soft under" }, bdi(claim, 400)),
      ],
    },
    { name: "verdict", label: "Verdict", show: verdict },
    { name: "figure", label: "Found", show: (figure) => h("span", { class: "wide" }, bdi(figure, 400)) },
    { name: "n", label: "n", numeric: true, show: count },
  ];
  if (models.size > 1) columns.splice(1, 0, { name: "model", label: "Model", show: (model) => bdi(modelName(model)) });
  const held = experiments.filter((one) => one.shown).length;
  return [
    h("p", { class: "soft" }, `${held} of ${experiments.length} claims are shown. Intervals are 95 %.`),
    h("div", { class: "wrapping" }, table("Experiments", columns, experiments)),
  ];
}

function verdict(said) {
  const words = { yes: "shown", no: "not shown" };
  return h("span", { class: said === "yes" ? "chip yes" : "chip no" }, words[said] ?? said);
}

async function details(experiment, signal, figures) {
  const path = `api/v1/experiments/${encodeURIComponent(experiment.name)}`;
  const head = [
    h("p", {}, h("a", { href: sibling("experiments") }, "← all experiments")),
    h("h2", {}, bdi(experiment.title)),
    h("p", {}, verdict(experiment.verdict), " ", bdi(experiment.claim, 2000)),
    h("p", { class: "finding" }, bdi(experiment.figure, 2000)),
  ];
  const answer = await get(path, {}, signal);
  const rows = records(answer);
  const drawn = await Promise.all(experiment.plots.map((plot) => panel(plot, rows, figures)));
  const { notes } = experiment;
  const others = Object.keys(answer.columns).filter((name) => !COLUMNS.has(name));
  const columns = [
    { name: "layer", label: "Layer", show: layerLabel },
    { name: "quantity", label: "Quantity", show: (value) => bdi(value) },
    ...others.map((name) => ({
      name,
      show: (value) => (typeof value === "number" ? number(value) : bdi(value ?? "–")),
    })),
    {
      name: "value",
      label: "Value [95 % interval]",
      numeric: true,
      show: (value, row) => withInterval(value, row.low, row.high),
    },
    { name: "n", label: "n", numeric: true, show: count },
  ];
  return [
    ...head,
    h("div", { class: "panels" }, drawn),
    notes.length > 0 &&
      h(
        "ul",
        { class: "notes soft" },
        notes.map((note) => h("li", {}, bdi(note, 2000))),
      ),
    table("Values", columns, rows),
    downloads(path, {}, fileName(experiment.name), figures[0] ? () => figures[0].png() : null),
  ];
}

/** A panel of the experiment's figure. */
async function panel(plot, rows, figures) {
  const figure = new Figure(plot.title);
  figures.push(figure);
  const x = [...new Set(rows.filter((row) => plot.quantities.includes(row.quantity)).map((row) => row[plot.x]))];
  await figure.draw(() => ({
    data: plot.quantities.slice(0, MOST_LINES).flatMap((quantity, place) => lines(quantity, place, plot.x, x, rows)),
    layout: {
      height: 320,
      margin: { l: 60, r: 16, t: 12, b: 48 },
      showlegend: true,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      xaxis: {
        title: { text: inPlotly(plot.x_label) },
        type: "category",
        categoryarray: x.map((one) => inPlotly(String(one))),
        nticks: 14,
      },
      yaxis: { title: { text: inPlotly(plot.y_label) }, automargin: true },
    },
  }));
  return h("figure", {}, h("figcaption", {}, bdi(plot.title)), figure.node);
}

function lines(quantity, place, across, x, rows) {
  const { color, dash } = style(place);
  const found = new Map(rows.filter((row) => row.quantity === quantity).map((row) => [row[across], row]));
  const of = (name) => x.map((one) => found.get(one)?.[name] ?? null);
  const labels = x.map((one) => inPlotly(String(one)));
  const edge = { type: "scatter", mode: "lines", x: labels, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  const line = {
    type: "scatter",
    mode: "lines+markers",
    x: labels,
    y: of("value"),
    name: inPlotly(quantity),
    line: { color: color, dash, width: 2 },
    marker: { size: 5 },
    text: x.map((one) => {
      const row = found.get(one);
      return row ? `${inPlotly(quantity)}: ${withInterval(row.value, row.low, row.high)}` : "";
    }),
    hovertemplate: "%{text}<extra></extra>",
  };
  return of("low").some((low) => low !== null)
    ? [{ ...edge, y: of("low") }, { ...edge, y: of("high"), fill: "tonexty", fillcolor: faint(color, 0.16) }, line]
    : [line];
}
