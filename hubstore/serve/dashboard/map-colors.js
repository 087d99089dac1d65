/** What colors the map's points: languages in shades of their family, scripts, columns of one's own, density. */

import { palette, rgb, scale, SHAPES, style } from "./colors.js";
import { categories } from "./map-data.js";

const FEW = 12; // values of a number that are told one by one
const BINS = 6;
const CELLS = 96; // across the grid that counts the points of a place
const DENSITIES = ["sparsest sixth", "second", "third", "fourth", "fifth", "densest sixth"];
const REACH = 1.25; // of the map that the grid covers
const scripts = new Intl.DisplayNames(["en"], { type: "script" });

/** The ways to color a store's points: what is in the address, and what it is called. */
/** Columns of a projection, which a kept one of the same name does not stand for. */
const COORDINATES = ["layer", "position", "x", "y", "z"];

export function colorings(info) {
  return [
    ["language", "Language"],
    ...(info.languages.length > 2
      ? [
          ["family", "Language family"],
          ["script", "Script"],
        ]
      : []),
    ...(info.modalities.length > 1 ? [["modality", "Modality"]] : []),
    ["concept", "Concept"],
    ["density", "Density"],
    ...Object.keys(info.columns)
      .filter((name) => !COORDINATES.includes(name))
      .map((name) => [`column:${name}`, name]),
  ];
}

/** The column that the server must give for a coloring; null where the items have what it needs. */
export function columnOf(coloring) {
  return coloring.startsWith("column:") ? coloring.slice("column:".length) : null;
}

/**
 * The kinds of points under a coloring, and how each is drawn.
 * @param {Float32Array} points of the layer that is shown.
 * @returns {{names: any[], counts: number[], of: Int32Array, styleOf: (place: number) => Object}}
 */
export function kindsOf(coloring, info, items, points) {
  const column = columnOf(coloring);
  if (column !== null) return ofColumn(items[column]);
  if (coloring === "density") return inBins(densities(points), DENSITIES);
  if (coloring === "family") return plain(items.language.map((tag) => familyOf(info, tag)));
  if (coloring === "script") return plain(items.language.map(scriptOf));
  if (coloring === "language") return shaded(plain(items.language), (tag) => familyOf(info, tag));
  return plain(items[coloring]);
}

function plain(values) {
  return { ...categories(values), styleOf: style };
}

function familyOf(info, tag) {
  return info.families[tag] ?? tag;
}

/** The script that a tag's language is written in, in English. */
export function scriptOf(tag) {
  try {
    return scripts.of(new Intl.Locale(tag).maximize().script) ?? "unknown";
  } catch {
    return "unknown"; // no script is likely for the tag, or it is none
  }
}

/** Each name in a shade of its group's color, and a shape of its own within the group. */
function shaded(kinds, groupOf) {
  const groups = new Map();
  const places = kinds.names.map((name) => {
    const group = groupOf(name);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(name);
    return [[...groups.keys()].indexOf(group), groups.get(group).length - 1];
  });
  const sizes = [...groups.values()].map((names) => names.length);
  return {
    ...kinds,
    styleOf(place) {
      const [group, own] = places[place];
      const colors = palette();
      const depth = sizes[group] === 1 ? 0 : own / (sizes[group] - 1) - 0.5; // -.5 to .5
      const color = mixed(colors[group % colors.length], depth < 0 ? "#000000" : "#ffffff", Math.abs(depth) * 0.8);
      return { color, shape: SHAPES[(2 * own + Math.floor(group / colors.length)) % SHAPES.length] };
    },
  };
}

function ofColumn(values) {
  const numbers = values.filter((value) => typeof value === "number" && Number.isFinite(value));
  const numeric = numbers.length > 0 && values.every((value) => value === null || typeof value === "number");
  if (!numeric || new Set(numbers).size <= FEW) return plain(values.map((value) => (value === null ? null : String(value))));
  return inBins(values);
}

/** Numbers in BINS classes of as many points each, as a ramp. */
function inBins(values, called = null) {
  const sorted = Float64Array.from(values.filter((value) => value !== null && Number.isFinite(value))).sort();
  const edges = Array.from({ length: BINS + 1 }, (_, bin) => sorted[Math.round((bin * (sorted.length - 1)) / BINS)]);
  const bin = (value) => {
    if (value === null || !Number.isFinite(value)) return BINS;
    let place = 0;
    while (place < BINS - 1 && value > edges[place + 1]) place += 1;
    return place;
  };
  const of = Int32Array.from(values, bin);
  const counts = new Array(BINS + 1).fill(0);
  for (const place of of) counts[place] += 1;
  const names = Array.from(
    { length: BINS },
    (_, place) => called?.[place] ?? `${short(edges[place])} to ${short(edges[place + 1])}`,
  );
  const missing = counts[BINS] > 0;
  return {
    names: missing ? [...names, null] : names,
    counts: missing ? counts : counts.slice(0, BINS),
    of,
    styleOf: (place) => ({
      color: place < BINS ? mixed(...scale(), 0.3 + (0.7 * place) / (BINS - 1)) : palette().at(-1),
      shape: SHAPES[0],
    }),
  };
}

/** How many points lie where each point does: counts of a grid's cells, each with its neighbors. */
export function densities(points) {
  const cell = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor(((value / REACH + 1) / 2) * CELLS)));
  const counts = new Float64Array(CELLS * CELLS);
  for (let i = 0; i < points.length; i += 2) counts[cell(points[i + 1]) * CELLS + cell(points[i])] += 1;
  const smooth = blurred(blurred(counts, 1), CELLS);
  return Array.from({ length: points.length / 2 }, (_, i) => smooth[cell(points[2 * i + 1]) * CELLS + cell(points[2 * i])]);
}

/** Each cell as the mean of five in a row, `step` apart. */
function blurred(counts, step) {
  return counts.map((_, place) => {
    let sum = 0;
    for (let shift = -2; shift <= 2; shift += 1) sum += counts[place + shift * step] ?? 0;
    return sum / 5;
  });
}

function mixed(one, other, share) {
  const [from, to] = [one, other].map(rgb);
  return `#${from.map((low, i) => Math.round(low + (to[i] - low) * share).toString(16).padStart(2, "0")).join("")}`;
}

function short(value) {
  return Number(value.toPrecision(4)).toString();
}
