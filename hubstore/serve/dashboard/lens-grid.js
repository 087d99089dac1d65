/** Layers by tokens as a table whose cells are the lens's first words: the ARIA grid pattern. */

import { onScheme, scale, shade } from "./colors.js";
import { fill, h } from "./dom.js";
import { inPlotly, layerLabel, number, tokenText } from "./words.js";

const TOKENS = 48; // at a time: a page of a long text
const CELL = [86, 30]; // pixels in the PNG

export class LensGrid {
  /**
   * @param {Object[]} rows of the answer.
   * @param {string[]} layers in the order of the store.
   * @param {(row: Object) => void} onchoose
   */
  constructor(rows, layers, onchoose) {
    this.onchoose = onchoose;
    this.cells = new Map(rows.map((row) => [`${row.layer}\n${row.token}`, row]));
    const there = new Set(rows.map((row) => row.layer));
    this.layers = layers.filter((layer) => there.has(layer)).reverse(); // the last on top, as states rise
    this.tokens = [...new Map(rows.map((row) => [row.token, row.piece])).entries()];
    const values = rows.map((row) => row.top_log_probabilities[0]).sort((a, b) => a - b);
    this.low = values[Math.floor(values.length * 0.05)];
    this.high = values.at(-1);
    this.page = 0;
    this.at = [0, 0];
    this.table = h("table", {
      class: "lens-grid",
      role: "grid",
      "aria-label": "The lens's first word at each layer and token",
      onkeydown: (event) => this.#key(event),
    });
    this.pager = h("p", { class: "pager" });
    this.node = h("div", { class: "lens-table" }, h("div", { class: "scroll" }, this.table), this.pager);
    this.#draw();
    const unwatch = onScheme(() => (this.node.isConnected ? this.#draw() : unwatch()));
  }

  /** The row of a layer and a token. */
  row(layer, token) {
    return this.cells.get(`${layer}\n${token}`);
  }

  /** A value's place between the ends of the colors, 0 to 1. */
  share(value) {
    return this.high > this.low ? (value - this.low) / (this.high - this.low) : 1;
  }

  get shown() {
    return this.tokens.slice(this.page * TOKENS, (this.page + 1) * TOKENS);
  }

  #draw() {
    const { shown } = this;
    fill(
      this.table,
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col", class: "corner" }, "layer"),
          shown.map(([token, piece]) =>
            h(
              "th",
              { scope: "col", title: token === null ? null : `token ${token}` },
              h("bdi", { class: "token" }, piece === null ? (token ?? "all") : tokenText(piece, 24)),
            ),
          ),
        ),
      ),
      h(
        "tbody",
        {},
        this.layers.map((layer, y) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, layer),
            shown.map(([token], x) => this.#cell(this.row(layer, token), x, y)),
          ),
        ),
      ),
    );
    const pages = Math.ceil(this.tokens.length / TOKENS);
    fill(
      this.pager,
      pages > 1 && [
        h("button", { type: "button", disabled: this.page === 0, onclick: () => this.#turn(-1) }, "Earlier tokens"),
        ` ${this.page * TOKENS + 1}–${this.page * TOKENS + shown.length} of ${this.tokens.length} `,
        h(
          "button",
          { type: "button", disabled: this.page === pages - 1, onclick: () => this.#turn(1) },
          "Later tokens",
        ),
      ],
    );
  }

  #cell(row, x, y) {
    if (!row) return h("td", { role: "gridcell" });
    const value = row.top_log_probabilities[0];
    const place = row.piece === null ? "" : `, at ${tokenText(row.piece, 40)}`;
    const found = `${tokenText(row.top_tokens[0], 40)}, log-probability ${number(value)}`;
    const words = `layer ${layerLabel(row.layer)}${place}: ${found}`;
    const cell = h(
      "td",
      {
        role: "gridcell",
        tabindex: x === this.at[0] && y === this.at[1] ? "0" : "-1",
        "aria-label": words,
        title: words,
        class: row.agrees ? "agrees" : null,
        "data-at": `${x},${y}`,
        onclick: () => this.#go(x, y),
      },
      h("bdi", { class: "token" }, tokenText(row.top_tokens[0], 18)),
    );
    const { background, ink } = shade(this.share(value));
    cell.style.background = background;
    cell.style.color = ink;
    return cell;
  }

  #turn(step) {
    this.page += step;
    this.at = [0, this.at[1]];
    this.#draw();
  }

  #go(x, y) {
    const find = (place) => this.table.querySelector(`[data-at="${place.join(",")}"]`);
    const next = find([x, y]);
    if (!next) return;
    const before = find(this.at);
    if (before) before.tabIndex = -1;
    this.at = [x, y];
    next.tabIndex = 0;
    next.focus();
    this.table.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    next.setAttribute("aria-selected", "true");
    this.onchoose(this.row(this.layers[y], this.shown[x][0]));
  }

  #key(event) {
    const [x, y] = this.at;
    const moves = {
      ArrowLeft: [x - 1, y],
      ArrowRight: [x + 1, y],
      ArrowUp: [x, y - 1],
      ArrowDown: [x, y + 1],
      Home: [0, y],
      End: [this.shown.length - 1, y],
      Enter: [x, y],
      " ": [x, y],
    };
    if (!moves[event.key] || event.target.tagName === "BUTTON") return;
    event.preventDefault();
    this.#go(...moves[event.key]);
  }
}

/** The grid's page as a Plotly figure, for a PNG. */
export function lensFigure(grid) {
  const heads = grid.shown.map(([token, piece]) => (piece === null ? String(token ?? "all") : tokenText(piece, 14)));
  const cell = (layer, place) => {
    const row = grid.row(layer, grid.shown[place][0]);
    return row ? [row.top_tokens[0], row.top_log_probabilities[0]] : null;
  };
  return wordsFigure(grid.layers, heads, cell, [grid.low, grid.high]);
}

/**
 * Words by layer as a Plotly figure.
 * @param {string[]} heads of the columns.
 * @param {(layer: string, place: number) => [string, number]|null} cell the word and its log-probability.
 * @param {number[]} range of the colors.
 */
export function wordsFigure(layers, heads, cell, [low, high]) {
  const of = (value) => layers.map((layer) => heads.map((_, place) => value(cell(layer, place))));
  const places = heads.map((_, place) => place);
  return {
    data: [
      {
        type: "heatmap",
        x: places,
        y: layers.map((_, place) => place),
        z: of((found) => found && found[1]),
        text: of((found) => found && inPlotly(tokenText(found[0], 14))),
        texttemplate: "%{text}",
        zmin: low,
        zmax: high,
        colorscale: scale().map((color, place) => [place, color]),
        xgap: 1,
        ygap: 1,
        colorbar: { title: { text: "log-probability" }, thickness: 12, outlinewidth: 0 },
      },
    ],
    layout: {
      margin: { l: 60, r: 20, t: 70, b: 20 },
      showlegend: false,
      xaxis: {
        tickvals: places,
        ticktext: heads.map((head) => inPlotly(head)),
        side: "top",
        showgrid: false,
      },
      yaxis: {
        tickvals: layers.map((_, place) => place),
        ticktext: layers.map((layer) => inPlotly(layer)),
        autorange: "reversed",
        showgrid: false,
        title: { text: "layer" },
      },
    },
    width: 200 + CELL[0] * heads.length,
    height: 110 + CELL[1] * layers.length,
  };
}
