/** Neighbors in columns, one for each layer. */

import { h } from "./dom.js";
import { preview } from "./media.js";
import { sibling } from "./state.js";
import { bdi, kindChips, languageName, layerLabel, passage, plural } from "./words.js";

/**
 * The columns.
 * @param {Object} info of the store.
 * @param {Object[]} hits rows of the answer.
 * @param {{layers: string[], group: string, concept: string|null, kinds: Object}} ways
 */
export function columns(info, hits, ways) {
  return h(
    "div",
    { class: "layers", role: "region", "aria-label": "Neighbors by layer", tabindex: "0" },
    ways.layers.map((layer) =>
      column(
        info,
        layer,
        hits.filter((hit) => hit.layer === layer),
        ways,
      ),
    ),
  );
}

function column(info, layer, hits, ways) {
  const same = ways.concept === null ? null : hits.filter((hit) => hit.concept === ways.concept).length;
  const name = `Layer ${layerLabel(layer)}`;
  return h(
    "section",
    { class: "layer", "aria-label": name },
    h(
      "header",
      {},
      h("h2", {}, name),
      h(
        "p",
        { class: "soft" },
        [same !== null && `${same} of ${hits.length} of the same concept`, kindOf(ways.kinds[layer])]
          .filter(Boolean)
          .join(" · "),
      ),
    ),
    groups(hits, ways.group).map(([title, members]) => [
      title && h("h3", {}, title, " ", h("small", {}, plural(members.length, "neighbor"))),
      h(
        "ol",
        {},
        members.map((hit) => neighbor(info, hit, ways)),
      ),
    ]),
  );
}

function kindOf(kind) {
  return kind ? ({ exact: "exact search" }[kind] ?? `${kind} index`) : null;
}

function groups(hits, by) {
  if (!by) return [["", hits]];
  const found = new Map();
  for (const hit of hits) {
    const title = by === "language" ? languageName(hit.language) : hit.modality;
    if (!found.has(title)) found.set(title, []);
    found.get(title).push(hit);
  }
  return [...found];
}

function neighbor(info, hit, { concept, layers }) {
  const same = concept !== null && hit.concept === concept;
  return h(
    "li",
    { class: same ? "hit same" : "hit", value: hit.rank },
    h(
      "div",
      { class: "hit-head" },
      kindChips(hit),
      same &&
        h(
          "span",
          { class: "same-mark", title: "the same concept" },
          "✓",
          h("span", { class: "unseen" }, " same concept"),
        ),
      h("span", { class: "score" }, hit.score.toFixed(3)),
    ),
    preview(info, hit),
    h(
      "a",
      { class: "hit-text", href: sibling("neighbors", { item: hit.id, layer: layers }), title: "Its own neighbors" },
      hit.text ? passage(hit.text, hit.language) : bdi(hit.id),
    ),
    h("small", { class: "soft" }, bdi(hit.id, 60)),
  );
}
