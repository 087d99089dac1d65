/** The lens: what the model would say at each layer of an item, or of a text that is typed. */

import { get, postLong, records, storePath } from "./api.js";
import { chooseItem } from "./choose-item.js";
import { choice, segmented, typedText } from "./controls.js";
import { empty, fill, h, say } from "./dom.js";
import { downloadLink, downloads, fileName } from "./download.js";
import { fetchItem, itemCard } from "./item-card.js";
import { lensFigure, LensGrid } from "./lens-grid.js";
import { LensLadder } from "./lens-ladder.js";
import { keptTrends, trendsOf } from "./lens-trends.js";
import { Pane } from "./pane.js";
import { png } from "./plot.js";
import { change } from "./state.js";
import { number, partitionName, plural, tokenText } from "./words.js";
import { shade } from "./colors.js";

export const title = "Lens";

const WORDS = 8; // most probable ones that a token has

/** Opens the view. */
export function open(context) {
  if (!context.info.lens && !context.info.generator) return { node: without(context.info), show() {}, close() {} };
  const view = new LensView(context);
  return { node: view.node, show: (params) => view.show(params), close: () => view.close() };
}

function without({ name }) {
  return h(
    "div",
    {},
    h("h1", {}, "Lens"),
    empty(
      "This store keeps no lens.",
      "The lens shows which words a model would say at each layer. It needs the model's unembedding, norm and " +
        "tokenizer, which the store keeps after:",
      h("code", {}, `hubstore lens ${name}.hub --keep`),
      "Only models with a language-modeling head have one; encoders such as E5 do not.",
    ),
  );
}

class LensView {
  constructor({ store, info }) {
    this.store = store;
    this.info = info;
    this.about = new Pane("The item", { class: "subject" });
    this.pane = new Pane("What the lens reads", { class: "lens" });
    this.trends = new Pane("Trends", { class: "trends" });
    this.asking = h("div", { class: "asking" });
    this.controls = this.#controls();
    const { variant, tokens, pooling } = this.controls;
    this.node = h(
      "div",
      {},
      h("h1", {}, "Lens"),
      this.asking,
      h("div", { class: "controls" }, h("div", { class: "row" }, variant.node, tokens.node, pooling.node)),
      this.about.node,
      h("div", { class: keptTrends(info) ? "with-trends" : "" }, this.pane.node, keptTrends(info) && this.trends.node),
    );
  }

  show(params) {
    const selection = question(this.info, params);
    if (selection.by !== this.by) this.#drawAsking(selection);
    this.typed?.set(selection.text);
    const { variant, tokens, pooling } = this.controls;
    variant.set(selection.variant);
    tokens.set(selection.tokens);
    pooling.set(selection.pooling);
    pooling.node.hidden = selection.by === "text" || this.info.poolings.length < 2;
    const subject = JSON.stringify([selection.by, selection.item]);
    if (subject !== this.subject) {
      this.subject = subject;
      this.#showAbout(selection);
    }
    this.#read(selection);
  }

  close() {
    this.about.stop();
    this.pane.stop();
    this.trends.stop();
    this.figure?.close();
  }

  #controls() {
    const { info } = this;
    const variants = [
      ["normed", "Normed"],
      ["raw", "Raw"],
    ];
    const tokens = [
      ["last", "Last token"],
      ["every", "Every token"],
    ];
    return {
      variant: segmented("Lens", variants, (value) => change({ variant: value === "normed" ? null : value })),
      tokens: segmented("Shown", tokens, (value) => change({ tokens: value === "last" ? null : value })),
      pooling: choice(
        "States",
        info.poolings.map((one) => [one, one === "tokens" ? "every token" : one]),
        (value) => change({ pooling: value }),
      ),
    };
  }

  #drawAsking({ by, text }) {
    this.by = by;
    const ways = [
      ["item", "An item"],
      ["text", "A text"],
    ];
    const kinds = segmented("Read", ways, (value) => change({ by: value }));
    kinds.set(by);
    this.typed = null;
    let field = null;
    if (by === "item") field = chooseItem(this.store, (id) => change({ item: id }));
    else if (this.info.generator) {
      this.typed = typedText("Text, read as you type", text, (value) => change({ text: value || null }, true));
      field = this.typed.node;
    }
    fill(
      this.asking,
      h("div", { class: "row" }, kinds.node, field),
      by === "text" &&
        !this.info.generator &&
        empty("This server reads no new texts.", [
          "Start it with the store's model: ",
          h("code", {}, `hubstore serve ${this.info.name}.hub --model MODEL`),
          ", one that says next words.",
        ]),
      by === "item" && !this.info.lens && empty("This store keeps no lens.", "A text can be read with the server's model."),
    );
  }

  #showAbout({ by, item }) {
    const kept = keptTrends(this.info);
    if (by === "text" || !item) {
      this.about.put();
      if (kept) this.#showTrends(null);
      return;
    }
    this.about.fill(async (signal) => {
      const found = await fetchItem(this.store, item, signal);
      const partition = found.modality === "text" ? found.language : `${found.modality}/${found.language}`;
      if (kept) this.#showTrends(partition);
      return itemCard(this.info, found, { view: "lens" });
    });
  }

  #showTrends(partition) {
    this.trends.fill(async (signal) => {
      const drawn = await trendsOf(this.store, this.info, partition, signal);
      this.figure?.close();
      this.figure = drawn;
      return drawn.node;
    });
  }

  #read(selection) {
    const { store, info } = this;
    const readable = selection.by === "text" ? info.generator : info.lens;
    if (!readable) return this.pane.put();
    if (selection.by === "text" && !selection.text)
      return this.pane.put(empty("Type a text.", "The lens reads it while you type, in any language."));
    if (selection.by === "item" && !selection.item) return this.pane.fill(() => suggestions(store, info));
    const path = storePath(store, "lens");
    return this.pane.fill(async (signal) => {
      const answer =
        selection.by === "text"
          ? await postLong(path, typedQueryOf(selection), signal)
          : await get(path, queryOf(selection), signal);
      return draw(info, selection, answer);
    }, "Reading…");
  }
}

function question(info, params) {
  const usual = info.poolings.includes("tokens") ? "tokens" : info.poolings[0];
  const by = ["text", "item"].includes(params.get("by")) ? params.get("by") : info.lens ? "item" : "text";
  return {
    by,
    item: params.get("item"),
    text: params.get("text") ?? "",
    variant: params.get("variant") === "raw" ? "raw" : "normed",
    tokens: params.get("tokens") === "every" ? "every" : "last",
    pooling: info.poolings.includes(params.get("pooling")) ? params.get("pooling") : usual,
  };
}

function queryOf({ item, variant, pooling }) {
  return { id: item, variant, pooling, k: WORDS };
}

function typedQueryOf({ text, variant, tokens }) {
  return { texts: [text], variant, k: WORDS, last: tokens === "last" };
}

async function suggestions(store, info) {
  const found = await Promise.all(
    info.partitions.slice(0, 6).map((one) => get(storePath(store, "items"), { partition: one.name, limit: 1 })),
  );
  return empty(
    "Choose an item.",
    "Type some of its text above, or begin with one of these:",
    h(
      "span",
      { class: "further" },
      found
        .filter((one) => one.rows)
        .map((one, place) =>
          h(
            "button",
            { type: "button", class: "link", onclick: () => change({ item: one.columns.id[0] }) },
            partitionName(info.partitions[place].name),
          ),
        ),
    ),
  );
}

function draw(info, selection, answer) {
  const rows = records(answer);
  if (!rows.length) return empty("The lens reads nothing here.", "The item has no rows under this pooling.");
  const layers = info.layers.includes("final") ? info.layers : [...info.layers, "final"];
  const { node, figure } = selection.tokens === "last" ? drawLast(rows, layers) : drawEvery(rows, layers);
  return [node, foot(info, selection, figure)];
}

/** The last token's words alone. */
function drawLast(rows, layers) {
  const last = Math.max(...rows.map((row) => row.token ?? 0));
  const ladder = new LensLadder(
    rows.filter((row) => (row.token ?? 0) === last),
    layers,
  );
  say(`${plural(ladder.layers.length, "layer")}, the last token`);
  return { node: ladder.node, figure: () => ladder.figure() };
}

/** Every token's first word, and more of a cell that is chosen. */
function drawEvery(rows, layers) {
  const detail = h(
    "aside",
    { class: "lens-detail", "aria-live": "polite" },
    h("p", { class: "soft" }, "Choose a cell to see more of its words."),
  );
  const grid = new LensGrid(rows, layers, (row) => fill(detail, words(row)));
  say(`${plural(grid.layers.length, "layer")}, ${plural(grid.tokens.length, "token")}`);
  const scale = h("p", { class: "legend-line soft" }, "Color: log-probability, ", number(grid.low), " ", ramp(), " ", number(grid.high));
  return { node: [h("div", { class: "lens-body" }, grid.node, detail), scale], figure: () => lensFigure(grid) };
}

function foot(info, selection, figure) {
  const image = () => {
    const { data, layout, width, height } = figure();
    return png(data, layout, width, height);
  };
  const name = fileName(info.name, "lens", selection.item ?? "text", selection.variant);
  return h(
    "div",
    { class: "figure-foot" },
    h("p", { class: "soft" }, "Words in bold are the model's own next word there."),
    selection.by === "text"
      ? h("p", { class: "downloads" }, h("span", {}, "Download "), downloadLink("PNG", null, `${name}.png`, image))
      : downloads(storePath(info.name, "lens"), queryOf(selection), name, image),
  );
}

function ramp() {
  return h("span", { class: "ramp", "aria-hidden": "true" });
}

function words(row) {
  const most = Math.exp(row.top_log_probabilities[0]);
  return [
    h(
      "h2",
      {},
      `Layer ${row.layer}`,
      row.piece !== null && [" at ", h("bdi", { class: "token" }, tokenText(row.piece, 40))],
    ),
    h(
      "p",
      { class: "soft" },
      `entropy ${number(row.entropy)} nats`,
      row.agrees === null ? "" : row.agrees ? ", the model's own word" : ", not the model's own word",
    ),
    h(
      "ol",
      { class: "words" },
      row.top_tokens.map((token, place) => {
        const share = Math.exp(row.top_log_probabilities[place]);
        const bar = h("span", { class: "share" }, number(share));
        bar.style.setProperty("--share", most ? share / most : 0);
        const { background } = shade(0.55);
        bar.style.setProperty("--shade", background);
        return h("li", {}, h("bdi", { class: "token" }, tokenText(token, 60)), bar);
      }),
    ),
  ];
}
