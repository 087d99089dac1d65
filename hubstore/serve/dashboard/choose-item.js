/** A field that finds items of a store as one types. */

import { get, records, storePath } from "./api.js";
import { Combobox } from "./combobox.js";
import { debounced, h } from "./dom.js";
import { bdi, count, kindChips } from "./words.js";

const FOUND = 20;
const WAIT = 200; // milliseconds after the last key

/**
 * The field.
 * @param {string} store
 * @param {(id: string) => void} onpick
 * @param {{label?: string, modality?: string}} ways
 */
export function chooseItem(store, onpick, { label = "Find an item", modality = null } = {}) {
  let request = null;
  const box = new Combobox("Items found", {
    placeholder: "Some of its text, or its id",
    draw: (item) => [kindChips(item), " ", bdi(item.text || item.id, 120), h("small", {}, " ", bdi(item.id, 60))],
    onpick: (item) => {
      box.input.value = "";
      onpick(item.id);
    },
  });
  const search = debounced(async () => {
    request?.abort();
    const now = (request = new AbortController());
    try {
      const query = { q: box.input.value.trim(), modality, limit: FOUND };
      const found = await get(storePath(store, "items"), query, now.signal);
      if (request !== now || document.activeElement !== box.input) return;
      const total = found.about?.total ?? found.rows;
      const words =
        found.rows === 0
          ? "No item holds that text."
          : total > found.rows
            ? `The first ${found.rows} of ${count(total)}; type more of it.`
            : null;
      box.show(records(found), words);
    } catch (error) {
      if (error.name !== "AbortError") box.show([], error.message);
    }
  }, WAIT);
  box.input.addEventListener("input", search);
  return h("div", { class: "field grow" }, h("label", { for: box.input.id }, label), box.node);
}
