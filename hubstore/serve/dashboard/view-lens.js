/** The lens: what the model would say at each layer of an item, a token at a time. */

import { get, records, storePath } from "./api.js";
import { chooseItem } from "./choose-item.js";
import { shade } from "./colors.js";
import { choice, segmented } from "./controls.js";
import { empty, fill, h, say } from "./dom.js";
import { downloads, fileName } from "./download.js";
import { fetchItem, itemCard } from "./item-card.js";
import { lensFigure, LensGrid } from "./lens-grid.js";
import { Pane } from "./pane.js";
import { png } from "./plot.js";
import { change } from "./state.js";
import { number, partitionName, plural, tokenText } from "./words.js";

export const title = "Lens";

const WORDS = 8; // most probable ones that a cell's detail lists

/** Opens the view. */
export function open({ store, info }) {
  if (!info.lens) {
    const node = h(
      "div",
      {},
      h("h1", {}, "Lens"),
      empty(
        "This store keeps no lens.",
        "The lens shows which words a model would say at each layer. It needs the model's unembedding, norm and " +
          "tokenizer, which the store keeps after:",
        h("code", {}, `hubstore lens ${info.name}.hub --keep`),
        "Only models with a language-modeling head have one; encoders such as E5 do not.",
      ),
    );
    return { node, show() {}, close() {} };
  }
  const about = new Pane("The item", { class: "subject" });
  const pane = new Pane("What the lens reads", { class: "lens" });
  const item = chooseItem(store, (id) => change({ item: id }));
  const variant = segmented(
    "Lens",
    [
      ["raw", "Raw"],
      ["normed", "Normed"],
    ],
    (value) => change({ variant: value === "raw" ? null : value }),
  );
  const pooling = choice(
    "States",
    info.poolings.map((one) => [one, one === "tokens" ? "every token" : one]),
    (value) => change({ pooling: value }),
  );
  const node = h(
    "div",
    {},
    h("h1", {}, "Lens"),
    h("div", { class: "controls" }, h("div", { class: "row" }, item, variant.node, pooling.node)),
    about.node,
    pane.node,
  );
  let shownItem = null;
  const show = (params) => {
    const selection = question(info, params);
    variant.set(selection.variant);
    pooling.set(selection.pooling);
    if (!selection.item) {
      pane.fill(() => suggestions(store, info));
      return;
    }
    if (selection.item !== shownItem) {
      shownItem = selection.item;
      about.fill(async (signal) => itemCard(info, await fetchItem(store, selection.item, signal), { view: "lens" }));
    }
    pane.fill(
      async (signal) => draw(info, selection, await get(storePath(store, "lens"), queryOf(selection), signal)),
      "Reading…",
    );
  };
  return {
    node,
    show,
    close: () => {
      about.stop();
      pane.stop();
    },
  };
}

function question(info, params) {
  const usual = info.poolings.includes("tokens") ? "tokens" : info.poolings[0];
  return {
    item: params.get("item"),
    variant: params.get("variant") === "normed" ? "normed" : "raw",
    pooling: info.poolings.includes(params.get("pooling")) ? params.get("pooling") : usual,
  };
}

function queryOf({ item, variant, pooling }) {
  return { id: item, variant, pooling, k: WORDS };
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
  const detail = h(
    "aside",
    { class: "lens-detail", "aria-live": "polite" },
    h("p", { class: "soft" }, "Choose a cell to see more of its words."),
  );
  const grid = new LensGrid(rows, info.layers, (row) => fill(detail, words(row)));
  say(`${plural(grid.layers.length, "layer")}, ${plural(grid.tokens.length, "token")}`);
  const figure = () => {
    const { data, layout, width, height } = lensFigure(grid);
    return png(data, layout, width, height);
  };
  return [
    h("div", { class: "lens-body" }, grid.node, detail),
    h(
      "div",
      { class: "figure-foot" },
      h(
        "p",
        { class: "legend-line soft" },
        "Color: log-probability of the word shown, ",
        number(grid.low),
        " ",
        ramp(),
        " ",
        number(grid.high),
        ". Words in bold are the model's own next word there.",
      ),
      downloads(
        storePath(info.name, "lens"),
        queryOf(selection),
        fileName(info.name, "lens", selection.item, selection.variant),
        figure,
      ),
    ),
  ];
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
