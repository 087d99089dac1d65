/** Thumbnails and players of a store's images and audio, fetched with the token once they come into sight. */

import { blob, storePath } from "./api.js";
import { fill, h } from "./dom.js";
import { visible } from "./words.js";

const KEPT = 200;
const urls = new Map(); // in the order of their last use

const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      sight.unobserve(entry.target);
      entry.target.dispatchEvent(new Event("seen"));
    }
  },
  { rootMargin: "200px" },
);

/** The preview of an item that has one, or nothing. */
export function preview(info, item) {
  if (!item.preview) return null;
  const place = h("div", { class: `preview ${item.modality}` });
  place.addEventListener("seen", async () => {
    try {
      fill(place, element(await previewUrl(info, item.id), item));
    } catch (error) {
      fill(place, h("small", {}, error.message));
    }
  });
  sight.observe(place);
  return place;
}

function element({ url, type }, item) {
  const called = visible(item.text || item.id, 160);
  if (type.startsWith("audio/"))
    return h("audio", { src: url, controls: true, preload: "metadata", "aria-label": called });
  return h("img", { src: url, alt: called, loading: "lazy" });
}

async function previewUrl(info, id) {
  const key = JSON.stringify([info.name, info.revision, id]);
  const found = urls.get(key) ?? (await fetched(info, id));
  urls.delete(key);
  urls.set(key, found);
  for (const [old, { url }] of urls) {
    if (urls.size <= KEPT) break;
    URL.revokeObjectURL(url);
    urls.delete(old);
  }
  return found;
}

async function fetched({ name, revision }, id) {
  const bytes = await blob(storePath(name, "preview"), { id, revision }, undefined, { cache: "default" });
  return { url: URL.createObjectURL(bytes), type: bytes.type };
}
