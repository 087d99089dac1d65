/** What the colors and shapes of the map's points stand for; a click shows one kind alone. */

import { DISTINCT } from "./colors.js";
import { fill, h } from "./dom.js";
import { bdi, count, languageName, visible } from "./words.js";

const MOST = 200;
const ONE_COLUMN = 14; // kinds that one column holds

/**
 * Draws the legend.
 * @param {{names: string[], counts: number[], styleOf: (place: number) => Object}} kinds in the order of their colors.
 * @param {{heading: string, byLanguage: boolean, only: Set<string>, ontoggle: (name: string) => void}} how
 */
export function drawLegend(node, kinds, { heading, byLanguage, only, ontoggle }) {
  const called = (name) => (name === null ? "none" : byLanguage ? `${name} · ${languageName(name)}` : name);
  const focused = document.activeElement?.dataset?.kind;
  const keys = kinds.names.slice(0, MOST).map((name, place) => key(name, place, called(name), kinds.counts[place]));
  fill(
    node,
    h("h2", {}, heading),
    h("ul", { class: kinds.names.length > ONE_COLUMN ? "keys many" : "keys" }, keys),
    kinds.names.length > MOST && h("p", { class: "soft" }, `and ${count(kinds.names.length - MOST)} more`),
    kinds.names.length > DISTINCT && h("p", { class: "soft" }, "Colors and shapes repeat."),
  );
  if (focused !== undefined) [...node.querySelectorAll("[data-kind]")].find((one) => one.dataset.kind === focused)?.focus();

  function key(name, place, words, number) {
    const { shape, color } = kinds.styleOf(place);
    const mark = h("span", { class: `mark ${shape}`, "aria-hidden": "true" });
    mark.style.setProperty("--color", color);
    const button = {
      type: "button",
      "aria-pressed": String(only.has(name)),
      "data-kind": String(name),
      disabled: name === null,
      title: `Show ${visible(words, 60)} alone`,
      onclick: () => ontoggle(name),
    };
    return h("li", {}, h("button", button, mark, bdi(words, 40), h("small", {}, count(number))));
  }
}
