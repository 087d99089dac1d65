/** What the analyses hold: their metrics and variants, which curves are drawn together, and curves out of rows. */

/** The analyses, what they are over, and the quantities that can be drawn; the first of each is shown at first. */
export const ANALYSES = {
  retrieval: {
    label: "Retrieval",
    over: "pair",
    axis: "share of queries",
    directed: true,
    says: "How often an item's equivalent in the other language is among its nearest.",
    quantities: [
      ["recall@1", "recall@1", ["recall@1"]],
      ["recall@5", "recall@5", ["recall@5"]],
      ["recall@10", "recall@10", ["recall@10"]],
      ["mrr", "mean reciprocal rank", ["mrr"]],
    ],
    variants: [
      ["centered", "cosine, centered"],
      ["raw", "cosine, raw"],
      ["csls_raw", "CSLS, raw"],
      ["csls_centered", "CSLS, centered"],
    ],
  },
  similarity: {
    label: "Similarity",
    over: "pair",
    axis: "cosine",
    says: "Cosine of equivalent items (matched) against others (baseline): Equation 1 of Wu et al. (2025).",
    quantities: [
      ["difference", "matched − baseline", ["difference"]],
      ["matched+baseline", "matched and baseline", ["matched", "baseline"]],
      ["matched", "matched", ["matched"]],
      ["baseline", "baseline", ["baseline"]],
    ],
    variants: [
      ["raw", "as stored"],
      ["centered", "each language's mean removed"],
    ],
  },
  alignment: {
    label: "Alignment",
    over: "pair",
    axis: "alignment",
    says: "Whether equivalent items lie alike among themselves in both languages.",
    quantities: [
      ["mutual_knn", "mutual nearest neighbors", ["mutual_knn"]],
      ["cka", "CKA", ["cka"]],
    ],
    variants: [
      ["raw", "as stored"],
      ["centered", "each language's mean removed"],
    ],
  },
  clustering: {
    label: "Clustering",
    over: "partition",
    axis: "share of nearest neighbors",
    says: "Of an item's nearest neighbors among all languages, the share with its concept and with its language.",
    quantities: [
      ["concept+language", "concept and language", ["concept_purity", "language_purity"]],
      ["concept_purity", "same concept", ["concept_purity"]],
      ["language_purity", "same language", ["language_purity"]],
    ],
    variants: [
      ["raw", "as stored"],
      ["centered", "each language's mean removed"],
    ],
  },
  geometry: {
    label: "Geometry",
    over: "partition",
    axis: "",
    says: "The shape of the states: how alike they are, how many dimensions they fill, how large they are.",
    quantities: [
      ["anisotropy", "anisotropy", ["anisotropy"]],
      ["effective_rank", "effective rank", ["effective_rank"]],
      ["hubness", "hubness", ["hubness"]],
      ["norm_mean", "mean norm", ["norm_mean"]],
      ["norm_median", "median norm", ["norm_median"]],
      ["norm_max", "largest norm", ["norm_max"]],
      ["share_top1", "share of the largest dimension", ["share_top1"]],
      ["share_top10", "share of the ten largest dimensions", ["share_top10"]],
    ],
    variants: [
      ["raw", "as stored"],
      ["centered", "each language's mean removed"],
    ],
  },
};

const ALWAYS = "debiased"; // CKA has one variant, which removes the means itself

/**
 * The curves of an analysis's rows.
 * @param {Object[]} rows of the table.
 * @param {string[]} metrics drawn together.
 * @returns {{x: string, y: string, metric: string, points: Map<string, Object>}[]} one for each x, y and metric.
 */
export function curvesOf(rows, metrics, variant) {
  const curves = new Map();
  for (const row of rows) {
    if (!metrics.includes(row.metric) || (row.variant !== variant && row.variant !== ALWAYS)) continue;
    if (row.layer_y !== undefined && row.layer_y !== null && row.layer_y !== row.layer) continue;
    const key = JSON.stringify([row.x, row.y, row.metric]);
    if (!curves.has(key)) curves.set(key, { x: row.x, y: row.y, metric: row.metric, points: new Map() });
    curves.get(key).points.set(row.layer, row);
  }
  return [...curves.values()];
}

/** The point of a curve where its value is largest. */
export function peak(curve) {
  let best = null;
  for (const row of curve.points.values()) {
    if (Number.isFinite(row.value) && row.value !== null && (best === null || row.value > best.value)) best = row;
  }
  return best;
}

/** What chance alone gives at a point, where the analysis says so. */
export function byChance(row) {
  return row?.null_mean ?? row?.chance ?? null;
}

/** A few of many, evenly spaced. */
export function spread(values, few) {
  if (values.length <= few) return [...values];
  return Array.from({ length: few }, (_, i) => values[Math.round((i * (values.length - 1)) / (few - 1))]);
}

/** Every two partitions, the pivot's first. */
export function pairsOf(partitions, pivot) {
  const names = partitions.map((one) => one.name);
  const ordered = names.includes(pivot) ? [pivot, ...names.filter((name) => name !== pivot)] : names;
  return ordered.flatMap((x, i) => ordered.slice(i + 1).map((y) => [x, y]));
}

/** The poolings of a store that have a row for each item. */
export function itemPoolings(info) {
  return info.poolings.filter((one) => one !== "tokens");
}

/** The partition that others are compared with at first: English, else the first. */
export function pivotOf(partitions) {
  const names = partitions.map((one) => one.name);
  return names.includes("en") ? "en" : names[0];
}
