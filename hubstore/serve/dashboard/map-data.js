/** A sample of a store's items as points, layer by layer, and how they look. */

import { arrowLong, getLong, storePath } from "./api.js";
import { floatColumns } from "./arrow.js";
import { rgb, SHAPES } from "./colors.js";

const MOST_NUMBERS = 1_500_000; // points times layers that are fetched at once
const ITEM_FIELDS = ["id", "concept", "language", "modality", "text"];
const FILLED = 0.985; // share of the points that a layer is scaled to

/** Layers that the slider steps through: all, or evenly spaced ones where all would be too much. */
export function layersShown(layers, points, wanted) {
  const few = Math.max(2, Math.floor(MOST_NUMBERS / points));
  if (layers.length <= few) return layers;
  const places = Array.from({ length: few }, (_, i) => Math.round((i * (layers.length - 1)) / (few - 1)));
  return layers.filter((layer, place) => places.includes(place) || layer === wanted);
}

/**
 * A sample and its places at each layer.
 * @param {string|null} column of the store's own that each item has too.
 * @returns {{items: Object, count: number, places: Map<string, Float32Array>, about: Object}} `places` by layer.
 */
export async function fetchMap(store, layers, query, signal, column = null) {
  const path = storePath(store, "projection");
  const [items, points] = await Promise.all([
    // Which items are drawn depends on neither layer nor method: the quickest tells them.
    getLong(path, { ...query, method: "pca", layer: layers[0], fields: column === null ? ITEM_FIELDS : [...ITEM_FIELDS, column] }, signal),
    arrowLong(path, { ...query, layer: layers, fields: ["x", "y"] }, signal),
  ]);
  const count = items.rows;
  const {
    columns: { x, y },
    about,
  } = floatColumns(points, ["x", "y"]);
  if (x.length !== count * layers.length)
    throw new Error("The store changed while the map was fetched. Reload the page.");
  const places = new Map(
    layers.map((layer, place) => {
      const [start, stop] = [place * count, (place + 1) * count];
      return [layer, fitted(x.subarray(start, stop), y.subarray(start, stop))];
    }),
  );
  return { items: items.columns, count, places, about };
}

/** Points around their middle, scaled so that all but a few lie within 1 of it. */
function fitted(x, y) {
  const count = x.length;
  const middle = [x, y].map((values) => {
    const sorted = values.slice().sort();
    return (sorted[Math.floor(count * 0.01)] + sorted[Math.ceil(count * 0.99) - 1]) / 2;
  });
  const far = Float32Array.from(x, (value, i) =>
    Math.max(Math.abs(value - middle[0]), Math.abs(y[i] - middle[1])),
  ).sort();
  const unit = far[Math.min(count - 1, Math.floor(count * FILLED))] || 1;
  const out = new Float32Array(2 * count);
  for (let i = 0; i < count; i += 1) {
    out[2 * i] = (x[i] - middle[0]) / unit;
    out[2 * i + 1] = (y[i] - middle[1]) / unit;
  }
  return out;
}

/**
 * The categories of a column, the most frequent first.
 * @returns {{names: string[], counts: number[], of: Int32Array}} `of` is each point's category.
 */
export function categories(values) {
  const counted = new Map();
  for (const value of values) counted.set(value, (counted.get(value) ?? 0) + 1);
  const collator = new Intl.Collator("en", { numeric: true });
  const ordered = [...counted].sort(([a, m], [b, n]) => n - m || collator.compare(a ?? "", b ?? ""));
  const places = new Map(ordered.map(([name], place) => [name, place]));
  return {
    names: ordered.map(([name]) => name),
    counts: ordered.map(([, count]) => count),
    of: Int32Array.from(values, (value) => places.get(value)),
  };
}

/** Red, green, blue and shape of each point, from its category. */
export function looks({ of, names, styleOf }) {
  const styles = names.map((_, place) => {
    const { color, shape } = styleOf(place);
    return [...rgb(color), SHAPES.indexOf(shape)];
  });
  const out = new Uint8Array(4 * of.length);
  for (let i = 0; i < of.length; i += 1) out.set(styles[of[i]], 4 * i);
  return out;
}

/** Points of the concept of a point, itself first; itself alone where it has none. */
export function equivalents({ of, names }, i) {
  const found = [i];
  if (names[of[i]] === null) return found;
  for (let j = 0; j < of.length; j += 1) if (of[j] === of[i] && j !== i) found.push(j);
  return found;
}

/** Points whose text or id holds what is looked for. */
export function holding(items, words) {
  const wanted = words.toLowerCase();
  const found = [];
  for (let i = 0; i < items.id.length; i += 1) {
    if ((items.text[i] ?? "").toLowerCase().includes(wanted) || items.id[i].toLowerCase().includes(wanted))
      found.push(i);
  }
  return found;
}
