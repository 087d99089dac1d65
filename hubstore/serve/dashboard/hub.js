/** One partition against all others together: their mean by layer, and what it says in words. */

import { byChance, curvesOf } from "./curves-data.js";
import { count, partitionLabel } from "./words.js";

/** Items of a store whose hub curve is computed without being asked for. */
export const QUICK = 20_000;

/**
 * The curves of one partition with every other, both directions of a pair as one, and their mean.
 * @param {Object[]} rows of an analysis by pair, all with `pivot`.
 * @returns {{pivot: string, others: {name: string, values: (number|null)[]}[], mean: (number|null)[],
 *   low: (number|null)[], high: (number|null)[], chance: (number|null)[]}} by layer; `low` and `high` hold the middle
 *   half of the others between them.
 */
export function hubOf(rows, metric, variant, layers, pivot) {
  const lines = new Map();
  const chances = layers.map(() => []);
  for (const { x, y, points } of curvesOf(rows, [metric], variant)) {
    const name = x === pivot ? y : x;
    layers.forEach((layer, place) => {
      const row = points.get(layer);
      if (!Number.isFinite(row?.value)) return;
      if (!lines.has(name)) lines.set(name, layers.map(() => []));
      lines.get(name)[place].push(row.value);
      if (byChance(row) !== null) chances[place].push(byChance(row));
    });
  }
  const others = [...lines].map(([name, line]) => ({ name, values: line.map(mean) }));
  const at = (work) => layers.map((_, place) => work(others.map((one) => one.values[place]).filter(known)));
  return {
    pivot,
    others,
    mean: at(mean),
    low: at((values) => quantile(values, 0.25)),
    high: at((values) => quantile(values, 0.75)),
    chance: chances.map(mean),
  };
}

const known = (value) => value !== null;

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

function quantile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** The place of the layer at which the mean is highest; null where there is none. */
export function highest(hub) {
  const found = hub.mean.reduce((best, value, i) => (known(value) && (best < 0 || value > hub.mean[best]) ? i : best), -1);
  return found < 0 ? null : found;
}

/** What a hub curve of recall says, in a sentence or three. */
export function finding(hub, layers) {
  const best = highest(hub);
  if (best === null) return null;
  const ranked = hub.others.filter((one) => known(one.values[best])).sort((a, b) => a.values[best] - b.values[best]);
  const [least, most] = [ranked[0], ranked.at(-1)];
  const told = (one) => `${partitionLabel(one.name)} ${percent(one.values[best])}`;
  const over =
    ranked.length > 1
      ? `the mean over ${partitionLabel(hub.pivot)} with ${count(ranked.length)} others, ${told(least)} to ${told(most)}`
      : `${partitionLabel(hub.pivot)} with ${partitionLabel(most.name)}`;
  const chance = known(hub.chance[best]) ? `; chance gives ${percent(hub.chance[best])}` : "";
  const ends = [0, layers.length - 1]
    .filter((place) => place !== best && known(hub.mean[place]))
    .map((place) => `at ${layerWords(layers[place])} ${percent(hub.mean[place])}`);
  return (
    `At ${layerWords(layers[best])}, ${percent(hub.mean[best])} of items have their equivalent as the nearest of all, ` +
    `each language's mean removed (${over}${chance}).` +
    (ends.length ? ` It is ${ends.join(" and ")}.` : "")
  );
}

function layerWords(layer) {
  return layer === "0" ? "the embeddings" : layer === "final" ? "the final norm" : `layer ${layer}`;
}

function percent(share) {
  const value = 100 * share;
  return `${value >= 10 || value === 0 ? Math.round(value) : Number(value.toPrecision(1))} %`;
}
