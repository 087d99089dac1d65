/** Words of the map's clusters: frequent words of the pivot language that other clusters have seldom (c-TF-IDF). */

import { edgedText } from "./map-lines.js";

const SAMPLE = 4000; // points that clusters are made of
const READ = 20_000; // points whose words are counted
const ROUNDS = 12;
const [FEWEST, MOST] = [3, 14]; // clusters
const PER_CLUSTER = 40; // points, by square root
const WORDS = 3;
const WORD = /\p{L}[\p{L}\p{M}'’-]*/gu;
const SHORTEST = 3; // letters of a word
const [COMMON, SPREAD] = [0.05, 0.6]; // share of texts, share of clusters: "the" is common in most, and says nothing
const LIFT = 1.5; // times that a word is more frequent in a cluster than everywhere

/**
 * The clusters of a layer.
 * @param {Object} items columns of the map's items.
 * @param {Int32Array} concepts of the points, as numbers.
 * @param {Float32Array} points
 * @param {string} pivot the language whose words are shown; an item without an equivalent in it has its own.
 * @returns {{i: number, words: string}[]} `i` is the point in the cluster's middle.
 */
export function clusterLabels(items, concepts, points, pivot) {
  const every = points.length / 2;
  if (every < FEWEST) return [];
  const step = Math.ceil(every / READ);
  const read = Array.from({ length: Math.ceil(every / step) }, (_, place) => place * step);
  const { centers, of } = clusters(points, read, Math.min(MOST, Math.max(FEWEST, Math.round(Math.sqrt(every / PER_CLUSTER)))));
  const wordsOf = pivotWords(items, concepts, pivot);
  const classes = centers.map(() => ({ counts: new Map(), concepts: new Set(), total: 0 }));
  const everywhere = new Map();
  read.forEach((i, place) => {
    const one = classes[of[place]];
    const key = items.concept[i] === null ? `item ${i}` : concepts[i];
    if (one.concepts.has(key)) return;
    one.concepts.add(key);
    for (const word of wordsOf(i)) {
      one.counts.set(word, (one.counts.get(word) ?? 0) + 1);
      everywhere.set(word, (everywhere.get(word) ?? 0) + 1);
      one.total += 1;
    }
  });
  const total = classes.reduce((sum, one) => sum + one.total, 0);
  const all = { everywhere, total, mean: total / classes.length, common: commonWords(classes) };
  return classes
    .map((one, place) => ({ i: middle(points, read, of, place, centers[place]), words: best(one, all) }))
    .filter(({ i, words }) => i >= 0 && words);
}

/**
 * The words of the largest tf · log(1 + A / f), as Grootendorst (2022, arXiv 2203.05794) has it, of those that are more
 * frequent here than elsewhere: where clusters are of languages, all have the same meanings, and no word tells.
 */
function best({ counts, total }, { everywhere, mean, common, total: whole }) {
  const stands = ([word, often]) => often > 1 && often / total > (LIFT * everywhere.get(word)) / whole;
  return [...counts]
    .filter(stands)
    .filter(([word]) => !common.has(word))
    .map(([word, often]) => [word, (often / total) * Math.log(1 + mean / everywhere.get(word))])
    .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    .slice(0, WORDS)
    .map(([word]) => word)
    .join(", ");
}

/** Words that a share of the texts of most clusters have. */
function commonWords(classes) {
  const spread = new Map();
  for (const { counts, concepts } of classes)
    for (const [word, often] of counts) if (often > COMMON * concepts.size) spread.set(word, (spread.get(word) ?? 0) + 1);
  return new Set([...spread.keys()].filter((word) => spread.get(word) > SPREAD * classes.length));
}

function pivotWords(items, concepts, pivot) {
  const byConcept = new Map();
  items.language.forEach((tag, i) => {
    if (tag === pivot && items.modality[i] === "text" && items.concept[i] !== null) byConcept.set(concepts[i], i);
  });
  const split = (i) => new Set((items.text[i] ?? "").toLowerCase().match(WORD)?.filter((one) => one.length >= SHORTEST) ?? []);
  return (i) => split(items.concept[i] !== null && byConcept.has(concepts[i]) ? byConcept.get(concepts[i]) : i);
}

/** k-means of the plane, begun at the point nearest 0 and then at the farthest from those begun at. */
function clusters(points, read, wanted) {
  const at = (i) => [points[2 * i], points[2 * i + 1]];
  const step = Math.ceil(read.length / SAMPLE);
  const sample = read.filter((_, place) => place % step === 0).map(at);
  const away = ([x, y], [a, b]) => (x - a) ** 2 + (y - b) ** 2;
  let centers = [sample.reduce((near, one) => (away(one, [0, 0]) < away(near, [0, 0]) ? one : near))];
  const far = sample.map((one) => away(one, centers[0]));
  while (centers.length < wanted) {
    const next = sample[far.indexOf(Math.max(...far))];
    centers.push(next);
    sample.forEach((one, i) => (far[i] = Math.min(far[i], away(one, next))));
  }
  const nearest = (one) => {
    let found = 0;
    for (let c = 1; c < centers.length; c += 1) if (away(one, centers[c]) < away(one, centers[found])) found = c;
    return found;
  };
  for (let round = 0; round < ROUNDS; round += 1) {
    const sums = centers.map(() => [0, 0, 0]);
    for (const one of sample) {
      const sum = sums[nearest(one)];
      sum[0] += one[0];
      sum[1] += one[1];
      sum[2] += 1;
    }
    centers = sums.map(([x, y, n], c) => (n ? [x / n, y / n] : centers[c]));
  }
  return { centers, of: Int32Array.from(read, (i) => nearest(at(i))) };
}

/** The point read of a cluster that is nearest its center; -1 of an empty one. */
function middle(points, read, of, place, [x, y]) {
  let [found, least] = [-1, Infinity];
  read.forEach((i, number) => {
    if (of[number] !== place) return;
    const distance = (points[2 * i] - x) ** 2 + (points[2 * i + 1] - y) ** 2;
    if (distance < least) [found, least] = [i, distance];
  });
  return found;
}

/** The words at their clusters, but where they would lie over others. */
export function drawLabels(context, plane, labels) {
  edgedText(context, "600 13px system-ui, sans-serif", 4);
  context.textAlign = "center";
  const drawn = [];
  for (const { i, words } of labels) {
    const [x, y] = plane.at(i);
    const half = context.measureText(words).width / 2 + 4;
    const left = Math.min(Math.max(x, half), Math.max(half, plane.width - half));
    if (y < 0 || y > plane.height || drawn.some(([a, b, c]) => Math.abs(b - y) < 18 && Math.abs(a - left) < c + half)) continue;
    drawn.push([left, y, half]);
    context.strokeText(words, left, y);
    context.fillText(words, left, y);
  }
  context.textAlign = "start";
}
