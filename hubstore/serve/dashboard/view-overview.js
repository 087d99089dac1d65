/** What there is: the stores, and what the chosen one holds. */

import { blob, storePath, withQuery } from "./api.js";
import { ANALYSES } from "./curves-data.js";
import { empty, h } from "./dom.js";
import { firstLook } from "./first-look.js";
import { downloadLink, fileName } from "./download.js";
import { address, sibling } from "./state.js";
import { table } from "./table.js";
import { bdi, count, facts, layerLabel, partitionName, plural } from "./words.js";

export const title = "Overview";

/** Opens the view. */
export function open({ stores, store, info }) {
  const several = stores.length > 1;
  const first = firstLook(store, info);
  const node = h(
    "div",
    { class: "overview" },
    heading(info),
    first.node,
    contents(info),
    several && others(stores, store),
    holdings(info),
  );
  return { node, show() {}, close: first.close };
}

function others(stores, chosen) {
  const cards = stores.map((one) => card(one, chosen));
  return h("section", { "aria-label": "Stores" }, h("h2", {}, "Stores"), h("ul", { class: "cards" }, cards));
}

function card(one, chosen) {
  return h(
    "li",
    {},
    h(
      "a",
      {
        class: "card",
        href: address("overview", { store: one.name }),
        "aria-current": one.name === chosen ? "true" : null,
      },
      h("strong", {}, bdi(one.name)),
      h("span", {}, plural(one.items, "item"), !one.complete && ", unfinished"),
      h("span", { class: "soft" }, bdi(modelName(one.model))),
    ),
  );
}

/** What a store's model is called. */
export function modelName(model) {
  return typeof model === "string" ? model : (model?.id ?? "no model");
}

function heading(info) {
  const languages = info.languages.length;
  return h(
    "div",
    { class: "lead" },
    h("h1", {}, bdi(info.name)),
    info.unfinished && h("p", { role: "note" }, bdi(info.name), ": ", info.unfinished),
    h(
      "p",
      { class: "soft" },
      "Activations of ",
      bdi(modelName(info.model)),
      " over ",
      plural(info.items, "item"),
      " in ",
      plural(languages, "language"),
      info.modalities.length > 1 ? `, as ${info.modalities.join(", ")}` : "",
      ".",
    ),
  );
}

function contents(info) {
  return h(
    "div",
    {},
    h(
      "dl",
      { class: "figures" },
      figure("Items", count(info.items)),
      figure("Concepts", count(info.concepts)),
      figure("Languages", count(info.languages.length)),
      figure("Layers", count(info.layers.length)),
      figure("Width", count(info.width)),
      figure("Stored as", info.dtype),
    ),
    h(
      "p",
      { class: "nav-cards" },
      navCard("curves", "Hub curves", "where translations meet, layer by layer"),
      navCard("map", "Map", "the items as points, moving through the layers"),
      navCard("neighbors", "Neighbors", "what lies near an item, side by side"),
      info.lens && navCard("lens", "Lens", "what the model would say at each layer"),
    ),
  );
}

function figure(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function navCard(view, name, words) {
  return h("a", { class: "nav-card", href: sibling(view) }, h("strong", {}, name), h("span", {}, words));
}

function holdings(info) {
  const largest = Math.max(1, ...info.partitions.map((one) => one.items));
  return h(
    "div",
    { class: "columns" },
    h(
      "section",
      { "aria-label": "Partitions" },
      h("h2", {}, "Partitions"),
      table(
        "Partitions",
        [
          { name: "name", label: "Partition", show: (name) => bdi(partitionName(name)) },
          { name: "modality", label: "Modality" },
          { name: "items", label: "Items", numeric: true, show: (items) => bar(items, largest) },
        ],
        info.partitions,
        25,
      ),
    ),
    h(
      "div",
      {},
      h("section", { "aria-label": "What it can answer" }, h("h2", {}, "What it can answer"), abilities(info)),
      h(
        "section",
        { "aria-label": "Layers" },
        h("h2", {}, "Layers"),
        h("p", {}, info.layers.map(layerLabel).join(", ")),
        h("p", { class: "soft" }, `pooled by ${info.poolings.join(", ")}`),
      ),
      h("section", { "aria-label": "Indexes" }, h("h2", {}, "Indexes"), indexes(info)),
      h("section", { "aria-label": "Kept analyses" }, h("h2", {}, "Kept analyses"), analyses(info)),
      info.projections.length > 0 &&
        h(
          "section",
          { "aria-label": "Kept projections" },
          h("h2", {}, "Kept projections"),
          table(
            "Kept projections",
            [
              { name: "layer", label: "Layer" },
              { name: "pooling", label: "Pooling" },
              { name: "method", label: "Method" },
              { name: "points", label: "Points", numeric: true, show: count },
            ],
            info.projections,
            20,
          ),
        ),
      h(
        "section",
        { "aria-label": "Provenance" },
        h("h2", {}, "Provenance"),
        h("div", { class: "provenance" }, facts({ revision: info.revision, ...info.provenance })),
      ),
    ),
  );
}

function bar(items, largest) {
  const node = h("span", { class: "bar" }, count(items));
  node.style.setProperty("--share", items / largest);
  return node;
}

function abilities(info) {
  const line = (there, yes, no) => h("li", { class: there ? "yes" : "no" }, there ? yes : no);
  return h(
    "ul",
    { class: "abilities" },
    line(true, "Neighbors of any item, by id or by vector"),
    line(
      info.encoder,
      "Neighbors of a text, image or audio that you give",
      "Neighbors of a text that you give: start the server with --model",
    ),
    line(info.lens, "The logit lens", [
      "The logit lens: keep one with ",
      h("code", {}, `hubstore lens ${info.name}.hub --keep`),
    ]),
    line(
      info.generator,
      "The lens over a text that you type, and steering",
      "The lens over a text that you type, and steering: start the server with --model, of a language model",
    ),
    info.modalities.some((one) => one !== "text") &&
      line(info.previews, "Thumbnails and clips", "Thumbnails and clips: extract with --previews"),
  );
}

function indexes(info) {
  if (!info.indexes.length) {
    return empty("No layer is indexed.", [
      "Searches are exact, which is quick up to a million items. To index: ",
      h("code", {}, `hubstore index ${info.name}.hub`),
    ]);
  }
  return table(
    "Indexes",
    [
      { name: "layer", label: "Layer" },
      { name: "pooling", label: "Pooling" },
      { name: "kind", label: "Kind" },
      { name: "rows", label: "Rows", numeric: true, show: count },
      {
        name: "stale",
        label: "State",
        show: (stale) => h("span", { class: stale ? "chip no" : "chip" }, stale ? "stale" : "current"),
      },
    ],
    info.indexes,
    20,
  );
}

function analyses(info) {
  if (!info.analyses.length) {
    return empty("None yet.", [
      "Hub curves are computed when they are first asked for, and kept. Beforehand: ",
      h("code", {}, `hubstore analyze ${info.name}.hub`),
    ]);
  }
  return table(
    "Kept analyses",
    [
      {
        name: "analysis",
        label: "Analysis",
        show: drawn,
      },
      { name: "rows", label: "Rows", numeric: true, show: count },
      {
        name: "current",
        label: "State",
        show: (current) =>
          h("span", { class: current ? "chip" : "chip no" }, current ? "current" : "of an earlier revision"),
      },
      {
        name: "key",
        label: "Table",
        show: (key, row) => asCsv(info.name, row.analysis, key),
      },
    ],
    info.analyses,
    20,
  );
}

/** Where an analysis is drawn. */
function drawn(name) {
  if (name === "projection") return h("a", { href: sibling("map") }, name);
  return ANALYSES[name] ? h("a", { href: sibling("curves", { analysis: name }) }, name) : name;
}

function asCsv(store, analysis, key) {
  const [path, query] = [storePath(store, "analyses", analysis, key), { format: "csv" }];
  return downloadLink("CSV", withQuery(path, query), `${fileName(store, analysis)}.csv`, () => blob(path, query));
}
