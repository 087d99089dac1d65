/** What the lens reads at one token, layer by layer: the most probable words, the last layer on top. */

import { onScheme, shade } from "./colors.js";
import { fill, h } from "./dom.js";
import { wordsFigure } from "./lens-grid.js";
import { layerLabel, number, tokenText } from "./words.js";

export class LensLadder {
  /**
   * @param {Object[]} rows of the answer, of one token.
   * @param {string[]} layers in the order of the store.
   */
  constructor(rows, layers) {
    this.rows = new Map(rows.map((row) => [row.layer, row]));
    this.layers = layers.filter((layer) => this.rows.has(layer)).reverse();
    this.table = h("table", { class: "lens-ladder" });
    const of = this.rows.get(this.layers[0]).piece;
    const after = of === null ? "" : ` after “${tokenText(of, 24).trim()}”`;
    this.node = h(
      "div",
      {},
      h("p", { class: "lens-caption" }, `What the model would say next${after}, the likeliest word first`),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Words by layer" }, this.table),
    );
    this.#draw();
    const unwatch = onScheme(() => (this.node.isConnected ? this.#draw() : unwatch()));
  }

  /** For a PNG. */
  figure() {
    const heads = this.rows.get(this.layers[0]).top_tokens.map((_, place) => String(place + 1));
    const cell = (layer, place) => {
      const row = this.rows.get(layer);
      return place < row.top_tokens.length ? [row.top_tokens[place], row.top_log_probabilities[place]] : null;
    };
    return wordsFigure(this.layers, heads, cell, [-7, 0]);
  }

  #draw() {
    fill(
      this.table,
      h(
        "tbody",
        {},
        this.layers.map((layer) => {
          const row = this.rows.get(layer);
          const name = h("th", { scope: "row", title: layerLabel(layer) }, layer);
          return h("tr", {}, name, row.top_tokens.map((_, place) => word(row, place)));
        }),
      ),
    );
  }
}

function word(row, place) {
  const share = Math.exp(row.top_log_probabilities[place]);
  const cell = h(
    "td",
    { class: place === 0 && row.agrees ? "agrees" : null, title: `probability ${number(share)}` },
    h("bdi", { class: "token" }, tokenText(row.top_tokens[place], 18)),
    h("small", {}, ` ${percent(share)}`),
  );
  const { background, ink } = shade(Math.sqrt(share));
  cell.style.background = background;
  cell.style.color = ink;
  return cell;
}

function percent(share) {
  return share < 0.005 ? "" : `${Math.round(100 * share)} %`;
}
