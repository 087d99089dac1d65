/** The first look at a store: its hub curve, a small map, and what they say. */

import { getLong, records, storePath } from "./api.js";
import { itemPoolings, pivotOf } from "./curves-data.js";
import { empty, h } from "./dom.js";
import { finding, highest, hubOf, QUICK } from "./hub.js";
import { hubFigure, smallMap } from "./hub-figure.js";
import { fetchMap } from "./map-data.js";
import { Pane } from "./pane.js";
import { Figure } from "./plot.js";
import { sibling } from "./state.js";
import { bdi, layerLabel, plural } from "./words.js";

const COMPUTING = "Computing the hub curve. The first time takes a while; then it is kept.";

/** The section, and what ends its requests. */
export function firstLook(store, info) {
  const curve = new Figure("The hub curve: recall of equivalents, layer by layer");
  const map = new Figure("A map of some items, colored by language");
  const pane = new Pane("Hub curve", { class: "first-look" });
  const close = () => {
    pane.stop();
    curve.close();
    map.close();
  };
  if (info.partitions.length < 2) return { node: null, close };
  const fill = () => pane.fill((signal) => look(store, info, curve, map, signal), COMPUTING);
  if (info.items <= QUICK || info.analyses.some((one) => one.analysis === "retrieval" && one.current)) fill();
  else
    pane.put(
      h(
        "p",
        {},
        `Where do equivalents meet? Over ${plural(info.items, "item")} the hub curve takes some minutes, once. `,
        h("button", { type: "button", class: "primary", onclick: fill }, "Compute it"),
      ),
    );
  return { node: pane.node, close };
}

async function look(store, info, curve, map, signal) {
  const pivot = pivotOf(info.partitions);
  const [pooling] = itemPoolings(info);
  const query = { analysis: "retrieval", pivot, pooling };
  const rows = records(await getLong(storePath(store, "curves"), query, signal));
  const hub = hubOf(rows, "recall@1", "centered", info.layers, pivot);
  const says = finding(hub, info.layers);
  if (says === null) return empty("There is no hub curve.", "No two partitions share enough concepts.");
  await curve.draw(() => hubFigure(hub, info.layers, "recall@1, centered"));
  const kept = nearestMap(info, highest(hub));
  if (kept) {
    const { layer, ...how } = kept;
    const found = await fetchMap(store, [layer], how, signal);
    await map.draw(() => smallMap(found, layer));
  }
  return [
    h("p", { class: "finding" }, says),
    h(
      "div",
      { class: kept ? "looks two" : "looks" },
      captioned(curve, h("a", { href: sibling("curves") }, "All curves"), [
        "mean of all pairs with ",
        bdi(pivot),
        hub.others.length > 1 && "; the band holds the middle half of them",
      ]),
      kept &&
        captioned(map, h("a", { href: sibling("map", { layer: kept.layer }) }, "The whole map"), [
          `layer ${layerLabel(kept.layer)}, by language`,
        ]),
    ),
  ];
}

function captioned(figure, link, words) {
  return h("figure", {}, figure.node, h("figcaption", { class: "soft" }, words, " · ", link));
}

/** The kept projection whose layer is nearest to a place. */
function nearestMap(info, place) {
  const far = (one) => Math.abs(info.layers.indexOf(one.layer) - place);
  const there = info.projections.filter((one) => info.layers.includes(one.layer));
  return there.sort((a, b) => far(a) - far(b))[0] ?? null;
}
