/** Hub curves: an analysis by layer, with 95 % intervals, for pairs of partitions or for partitions. */

import { getLong, records, storePath } from "./api.js";
import { chooseMany } from "./choose-many.js";
import { choice, segmented } from "./controls.js";
import { ANALYSES, byChance, curvesOf, itemPoolings, pairsOf, peak, pivotOf } from "./curves-data.js";
import { curveFigure, curveName } from "./curves-figure.js";
import { hubOf } from "./hub.js";
import { heatFigure, hubFigure } from "./hub-figure.js";
import { style } from "./colors.js";
import { empty, h, refill, say } from "./dom.js";
import { downloads, fileName } from "./download.js";
import { Pane } from "./pane.js";
import { Figure } from "./plot.js";
import { change } from "./state.js";
import { table } from "./table.js";
import { bdi, count, layerLabel, number, partitionLabel, plural, WHOLE, withInterval } from "./words.js";

export const title = "Hub curves";

const MOST = 16; // curves that can be told apart on one axis

/** Opens the view. */
export function open({ store, info }) {
  const figure = new Figure("Curves by layer; the tables below hold the same numbers");
  const heat = new Figure("Each pair by layer; the table of all values holds the same numbers");
  const pane = new Pane("Curves", { class: "curves" });
  const bar = h("div", { class: "controls" });
  const says = h("p", { class: "soft says" });
  let controls = null;
  let answer = null; // rows of the last answer, and what was asked

  const node = h("div", {}, h("h1", {}, "Hub curves"), bar, says, pane.node);

  const show = (params) => {
    const selection = question(info, params);
    if (controls?.analysis !== selection.analysis) {
      controls = makeControls(info, selection);
      controls.set(selection);
      refill(bar, controls.nodes);
    }
    controls.set(selection);
    says.textContent = ANALYSES[selection.analysis].says;
    if (selection.over.length === 0) {
      pane.put(empty("Nothing is chosen.", "Choose a pair above: type two languages, such as “en sw”."));
      return;
    }
    pane.fill(async (signal) => {
      const query = queryOf(info, selection);
      const key = JSON.stringify(query);
      if (answer?.key !== key) {
        const found = await getLong(storePath(store, "curves"), query, signal);
        answer = { key, rows: records(found) };
      }
      return draw(info, selection, answer.rows, query, { figure, heat });
    }, "Computing the curves. The first time takes a while; then they are kept.");
  };
  return {
    node,
    show,
    close: () => {
      pane.stop();
      figure.close();
      heat.close();
    },
  };
}

/** What the parameters ask for, with what is shown at first in the place of what they do not say. */
function question(info, params) {
  const analysis = ANALYSES[params.get("analysis")] ? params.get("analysis") : "retrieval";
  const { over, quantities, variants } = ANALYSES[analysis];
  const quantity = quantities.find(([name]) => name === params.get("metric")) ?? quantities[0];
  const variant = variants.find(([name]) => name === params.get("variant")) ?? variants[0];
  const chosen = params.getAll(over).filter(Boolean);
  const initial = params.has(over) ? chosen : over === "pair" && info.partitions.length < 3 ? firstPairs(info) : [WHOLE];
  const pooling = info.poolings.includes(params.get("pooling")) ? params.get("pooling") : itemPoolings(info)[0];
  return { analysis, quantity: quantity[0], metrics: quantity[2], variant: variant[0], over: initial, pooling };
}

/** The pairs of a store of two partitions; pairs are named "en:es". */
function firstPairs(info) {
  return pairsOf(info.partitions, pivotOf(info.partitions)).map((pair) => pair.join(":"));
}

/** Whether all pairs with the pivot are drawn, and their mean. */
function isHub({ analysis, over }) {
  return ANALYSES[analysis].over === "pair" && over.includes(WHOLE);
}

/** What is chosen after a change: all pairs together, or some, but not both. */
function without(chosen) {
  return chosen.at(-1) === WHOLE ? [WHOLE] : chosen.filter((one) => one !== WHOLE);
}

function queryOf(info, selection) {
  const { analysis, over, pooling } = selection;
  if (isHub(selection)) return { analysis, pivot: pivotOf(info.partitions), pooling };
  if (ANALYSES[analysis].over === "pair") return { analysis, pair: over, pooling };
  return { analysis, partition: over.includes(WHOLE) ? null : over, pooling };
}

function makeControls(info, { analysis }) {
  const { over, quantities, variants } = ANALYSES[analysis];
  const kinds = segmented(
    "Analysis",
    Object.entries(ANALYSES).map(([name, { label }]) => [name, label]),
    (value) => change({ analysis: value, metric: null, variant: null }),
  );
  const metric = choice("Quantity", quantities, (value) => change({ metric: value }));
  const variant = choice("States", variants, (value) => change({ variant: value }));
  const options =
    over === "pair"
      ? [
          [WHOLE, `all with ${partitionLabel(pivotOf(info.partitions))}, and their mean`],
          ...pairsOf(info.partitions, pivotOf(info.partitions)).map(([x, y]) => [
            `${x}:${y}`,
            `${partitionLabel(x)} – ${partitionLabel(y)}`,
          ]),
        ]
      : [WHOLE, ...info.partitions.map((one) => one.name)].map((name) => [name, partitionLabel(name)]);
  const many = chooseMany(
    over === "pair" ? "Pairs" : "Partitions",
    options,
    [],
    (chosen) => change({ [over]: chosen.length ? (over === "pair" ? without(chosen) : chosen) : [""] }),
    { most: MOST, none: over === "pair" ? "Type two languages: en sw" : "Type a language", tagged: true },
  );
  const pooled =
    itemPoolings(info).length > 1 && choice("Pooling", itemPoolings(info), (value) => change({ pooling: value }));
  return {
    analysis,
    nodes: [kinds.node, h("div", { class: "row" }, metric.node, variant.node, pooled && pooled.node), many.node],
    set(selection) {
      kinds.set(selection.analysis);
      metric.set(selection.quantity);
      variant.set(selection.variant);
      many.set(selection.over);
      if (pooled) pooled.set(selection.pooling);
    },
  };
}

async function draw(info, selection, rows, query, figures) {
  return isHub(selection)
    ? drawHub(info, selection, rows, query, figures)
    : drawCurves(info, selection, rows, query, figures.figure);
}

/** All pairs with the pivot: their mean, and each of them by layer. */
async function drawHub(info, selection, rows, query, { figure, heat }) {
  const [metric] = selection.metrics;
  const hub = hubOf(rows, metric, selection.variant, info.layers, pivotOf(info.partitions));
  if (!hub.others.length) return empty("There is no curve.", "No partition shares enough concepts with another.");
  await figure.draw(() => hubFigure(hub, info.layers, labelOf(selection)));
  await heat.draw(() => heatFigure(hub, info.layers));
  say(`The mean of ${plural(hub.others.length, "pair")} over ${plural(info.layers.length, "layer")}`);
  const name = fileName(info.name, selection.analysis, selection.quantity, selection.variant);
  const all = curvesOf(rows, [metric], selection.variant).map((curve) => ({ ...curve, ...second(curve, selection) }));
  return [
    h("div", { class: "looks two" }, h("figure", {}, figure.node), h("figure", {}, heat.node)),
    h(
      "div",
      { class: "figure-foot" },
      h("p", { class: "soft" }, "Thick: the mean of all pairs; the band holds the middle half of them. Dotted: chance."),
      downloads(storePath(info.name, "curves"), query, name, () => figure.png()),
    ),
    h("details", { class: "values" }, h("summary", {}, "All values"), values(all)),
  ];
}

/** What a metric is called, of which one is drawn. */
function labelOf({ analysis, metrics }) {
  return ANALYSES[analysis].quantities.find(([name]) => name === metrics[0])?.[1] ?? metrics[0];
}

async function drawCurves(info, selection, rows, query, figure) {
  const { axis, quantities } = ANALYSES[selection.analysis];
  const drawn = curvesOf(rows, selection.metrics, selection.variant).filter((curve) => wanted(curve, selection));
  if (!drawn.length) return empty("There is no curve for this.", "The partitions chosen may share too few concepts.");
  const places = new Map();
  const place = (curve) => {
    const key = groupOf(curve, selection);
    if (!places.has(key)) places.set(key, places.size);
    return places.get(key);
  };
  const curves = drawn.map((curve) => ({ ...curve, place: place(curve), ...second(curve, selection) }));
  const label = axis || quantities.find(([name]) => name === selection.quantity)[1];
  const make = () => curveFigure(curves, info.layers, label);
  await figure.draw(make);
  say(`${plural(curves.length, "curve")} over ${plural(info.layers.length, "layer")}`);
  const name = fileName(info.name, selection.analysis, selection.quantity, selection.variant);
  return [
    figure.node,
    h(
      "div",
      { class: "figure-foot" },
      h(
        "p",
        { class: "soft" },
        "Bands are 95 % bootstrap intervals. ",
        curves.some((one) => [...one.points.values()].some((row) => byChance(row) !== null)) &&
          "Dotted lines are chance. ",
        curves.some((one) => [...one.points.values()].some((row) => row.resolved === false)) &&
          "Open points are finer than the store's dtype resolves. ",
      ),
      downloads(storePath(info.name, "curves"), query, name, () => figure.png()),
    ),
    h("h2", {}, "Where each curve is highest"),
    peaks(curves),
    h("details", { class: "values" }, h("summary", {}, "All values"), values(curves)),
  ];
}

/** Whether a curve is one of those chosen; directed analyses answer each pair in both directions. */
function wanted(curve, { analysis, over }) {
  if (ANALYSES[analysis].over === "partition") return over.includes(curve.x);
  return over.includes(`${curve.x}:${curve.y}`) || over.includes(`${curve.y}:${curve.x}`);
}

/** What curves of one color have in common. */
function groupOf(curve, { analysis }) {
  return ANALYSES[analysis].directed ? [curve.x, curve.y].sort().join("\n") : `${curve.x}\n${curve.y}`;
}

/** Whether a curve is the second of its color, and what tells it from the first. */
function second(curve, selection) {
  const quantities = selection.metrics.length > 1;
  const back = ANALYSES[selection.analysis].directed && !selection.over.includes(`${curve.x}:${curve.y}`);
  return {
    second: back || (quantities && curve.metric !== selection.metrics[0]),
    showMetric: quantities,
    directed: ANALYSES[selection.analysis].directed,
  };
}

function swatch(curve) {
  const node = h("span", { class: curve.second ? "swatch second" : "swatch", "aria-hidden": "true" });
  node.style.setProperty("--color", style(curve.place).color);
  return node;
}

function peaks(curves) {
  const rows = curves
    .map((curve) => ({ curve, best: peak(curve) }))
    .filter(({ best }) => best)
    .map(({ curve, best }) => ({
      name: curveName(curve),
      curve,
      layer: best.layer,
      value: best.value,
      low: best.low,
      high: best.high,
      n: best.n,
    }));
  return table(
    "Where each curve is highest",
    [
      { name: "name", label: "Curve", show: (name, row) => [swatch(row.curve), bdi(name)] },
      { name: "layer", label: "Layer", numeric: true, show: layerLabel },
      { name: "value", label: "Value", numeric: true, show: number },
      {
        name: "low",
        label: "95 % interval",
        numeric: true,
        show: (low, row) => (low === null ? "–" : `${number(low)} to ${number(row.high)}`),
      },
      { name: "n", label: "n", numeric: true, show: count },
    ],
    rows,
  );
}

function values(curves) {
  const rows = curves.flatMap((curve) =>
    [...curve.points.values()].map((row) => ({ ...row, name: curveName(curve), chance: byChance(row) })),
  );
  const columns = [
    { name: "layer", label: "Layer", show: layerLabel },
    { name: "name", label: "Curve", show: (name) => bdi(name) },
    { name: "variant", label: "States" },
    {
      name: "value",
      label: "Value [95 % interval]",
      numeric: true,
      show: (value, row) => withInterval(value, row.low, row.high),
    },
    { name: "n", label: "n", numeric: true, show: count },
  ];
  if (rows.some((row) => row.chance !== null))
    columns.push({ name: "chance", label: "By chance", numeric: true, show: number });
  if (rows.some((row) => Number.isFinite(row.p_value)))
    columns.push({ name: "p_value", label: "p", numeric: true, show: number });
  return table("All values", columns, rows);
}
