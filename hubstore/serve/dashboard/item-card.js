/** An item in full: its text or preview, what it is, its equivalents, and ways to look further. */

import { get, storePath } from "./api.js";
import { h } from "./dom.js";
import { preview } from "./media.js";
import { sibling } from "./state.js";
import { bdi, languageName, passage, plural } from "./words.js";

const WHOLE_TEXT = 20_000; // characters; longer texts are cut even here
const SHOWN = 60; // equivalents

/** An item as the server tells it. */
export function fetchItem(store, id, signal) {
  return get(storePath(store, "item"), { id }, signal);
}

/**
 * The card.
 * @param {Object} info of the store.
 * @param {Object} item as `fetchItem` gives it.
 * @param {{view?: string, toItem?: (id: string) => string, level?: string}} ways the view that it stands in, which it
 *   then does not link to, and the address of an equivalent there.
 */
export function itemCard(info, item, { view = "", toItem = null } = {}) {
  const tokens =
    item.tokens === null || item.tokens === undefined
      ? null
      : plural(item.tokens, "token") + (item.truncated ? ", cut" : "");
  return h(
    "article",
    { class: "item-card", "aria-label": `Item ${item.id}` },
    preview(info, item),
    item.text && passage(item.text, item.modality === "text" ? item.language : null, WHOLE_TEXT),
    h(
      "dl",
      { class: "facts" },
      fact("Id", bdi(item.id)),
      item.concept !== null && fact("Concept", bdi(item.concept)),
      fact(
        "Language",
        languageName(item.language),
        item.language !== languageName(item.language) && [" · ", bdi(item.language)],
      ),
      item.modality !== "text" && fact("Modality", item.modality),
      item.media && fact("File", bdi(item.media)),
      tokens && fact("Length", tokens),
    ),
    h(
      "p",
      { class: "further" },
      view !== "neighbors" && h("a", { href: sibling("neighbors", { item: item.id }) }, "Neighbors"),
      view !== "map" && h("a", { href: sibling("map", { item: item.id }) }, "On the map"),
      view !== "lens" && info.lens && h("a", { href: sibling("lens", { item: item.id }) }, "Lens"),
    ),
    toItem &&
      item.equivalents.length > 0 &&
      h(
        "details",
        { open: item.equivalents.length <= 30 },
        h("summary", {}, plural(item.equivalents.length, "equivalent")),
        h(
          "ul",
          { class: "links" },
          item.equivalents.slice(0, SHOWN).map((id) => h("li", {}, h("a", { href: toItem(id) }, bdi(id, 60)))),
        ),
      ),
  );
}

function fact(name, ...value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}
