/** The map: items as points that move as the layer changes, with lines between equivalents. */

import { storePath } from "./api.js";
import { chooseMany } from "./choose-many.js";
import { onScheme, ours } from "./colors.js";
import { choice, tick } from "./controls.js";
import { itemPoolings, pivotOf } from "./curves-data.js";
import { debounced, empty, fill, fresh, h, say } from "./dom.js";
import { downloads, fileName } from "./download.js";
import { fetchItem, itemCard } from "./item-card.js";
import { drawLegend } from "./legend.js";
import { colorings, columnOf, kindsOf } from "./map-colors.js";
import { categories, equivalents, fetchMap, holding, layersShown, looks } from "./map-data.js";
import { clusterLabels, drawLabels } from "./map-labels.js";
import { drawNames, drawStar } from "./map-lines.js";
import { Pane } from "./pane.js";
import { Plane } from "./plane.js";
import { areaOf, cornersOf, selectionPanel, within } from "./selection.js";
import { layerSlider } from "./slider.js";
import { change, read, sibling } from "./state.js";
import { bdi, count, languageName, plural, visible } from "./words.js";

export const title = "Map";

const SAMPLES = ["5000", "20000", "50000", "100000"];
const SLOW = "Projecting the items by UMAP at every layer. The first time takes minutes; then it is kept.";
const NAMED = 40; // equivalents that have their language written beside them
const [DIM, PLAIN, LIT] = [1, 2, 3];
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Opens the view. */
export function open(context) {
  const view = new MapView(context);
  return { node: view.node, show: (params) => view.show(params), close: () => view.close() };
}

class MapView {
  constructor({ store, info }) {
    this.store = store;
    this.info = info;
    this.map = null;
    this.equivalents = []; // the picked item and its equivalents
    this.hovered = []; // the hovered one and its
    this.colorings = colorings(info);
    this.plane = new Plane("Map of the items", {
      onhover: (i) => this.#hover(i),
      onpick: (i) => change({ item: this.map.items.id[i] }),
      onlook: (at) => change({ at }, true),
      onarea: (path) => this.#choose(path),
      overlay: (context) => this.#overlay(context),
    });
    this.tip = h("div", { class: "tip", hidden: true });
    this.plane.node.append(this.tip);
    this.pane = new Pane("Map", { class: "map-pane" });
    this.side = new Pane("Item", { class: "map-item" });
    this.legend = h("div", { class: "legend" });
    this.chosen = []; // what the area of the address holds
    this.selected = h("div", {});
    this.lasso = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#toggleLasso() }, "Draw an area");
    const all = { type: "button", onclick: () => this.#choose(this.plane.view()) };
    const areas = h("div", { class: "row areas" }, this.lasso, h("button", all, "Select all in view"));
    this.foot = h("div", { class: "figure-foot" });
    this.slider = layerSlider((layer) => change({ layer }, true));
    this.controls = this.#controls();
    this.node = h(
      "div",
      { class: "map" },
      h("h1", { class: "unseen" }, "Map"),
      h(
        "details",
        { class: "filters", open: innerWidth > 700 },
        h("summary", {}, "Colors and filters"),
        h("div", { class: "controls" }, this.controls.nodes),
      ),
      h(
        "div",
        { class: "map-body" },
        h("div", { class: "map-main" }, this.slider.node, this.pane.node, areas, this.foot),
        h("div", { class: "map-side" }, this.selected, this.legend, this.side.node),
      ),
    );
    this.unwatch = onScheme(() => this.map && this.#paint());
  }

  show(params) {
    const selection = this.#question(params);
    this.selection = selection;
    this.controls.set(selection);
    const column = columnOf(selection.color);
    const key = JSON.stringify([selection.layers, selection.query, column]);
    if (key !== this.key) {
      this.key = key;
      this.map = null;
      this.slider.offer(selection.layers);
      this.pane
        .fill(
          async (signal) => {
            this.map = await fetchMap(this.store, selection.layers, selection.query, signal, column);
            if (!this.map.count) return empty("No item passes these filters.", "Choose fewer of them.");
            this.concepts = categories(this.map.items.concept);
            this.labels = new Map(); // by layer
            this.kinds = [];
            this.places = new Map(this.map.items.id.map((id, i) => [id, i]));
            this.painted = null;
            this.#draw(false);
            return this.plane.node;
          },
          selection.query.method === "umap" ? SLOW : "Projecting the items. The first time takes a while; then it is kept.",
        )
        .then(() => {
          if (!this.map) this.key = null; // what failed may be tried again
        });
    } else if (this.map?.count) this.#draw(true);
    this.slider.set(selection.layer);
    if (selection.item !== this.item) this.#showItem(selection.item);
  }

  close() {
    this.slider.close();
    this.pane.stop();
    this.side.stop();
    this.unwatch();
    this.plane.close();
  }

  #question(params) {
    const { info } = this;
    const points = SAMPLES.includes(params.get("points")) ? params.get("points") : "20000";
    const wanted = info.layers.includes(params.get("layer"))
      ? params.get("layer")
      : info.layers[Math.floor(info.layers.length / 2)];
    const poolings = itemPoolings(info);
    const query = {
      points,
      method: params.get("method") === "umap" ? "umap" : "pca",
      pooling: poolings.includes(params.get("pooling")) ? params.get("pooling") : poolings[0],
      language: params.getAll("language"),
      modality: params.getAll("modality"),
    };
    return {
      layer: wanted,
      layers: layersShown(info.layers, Math.min(Number(points), info.items), wanted),
      query,
      color: this.colorings.some(([name]) => name === params.get("color"))
        ? params.get("color")
        : info.modalities.length > 1
          ? "modality"
          : "language",
      item: params.get("item"),
      labels: params.get("labels") !== "0",
      q: params.get("q") ?? "",
      only: params.getAll("only"),
      at: params.get("at"),
      corners: cornersOf(params.get("area")),
      areaLayer: params.get("area-layer"),
    };
  }

  #controls() {
    const { info } = this;
    const color = choice("Color", this.colorings, (value) => change({ color: value, only: null }));
    const labels = tick("Words of clusters", (value) => change({ labels: value ? null : "0" }));
    const method = choice(
      "Projection",
      [
        ["pca", "PCA"],
        ["umap", "UMAP"],
      ],
      (value) => change({ method: value, at: null }),
    );
    const points = choice(
      "Points",
      SAMPLES.map((one) => [one, `up to ${count(Number(one))}`]),
      (value) => change({ points: value }),
    );
    const poolings = itemPoolings(info);
    const pooling = poolings.length > 1 && choice("Pooling", poolings, (value) => change({ pooling: value }));
    const modality =
      info.modalities.length > 1 &&
      choice("Modality", [["", "all"], ...info.modalities], (value) => change({ modality: value || null }));
    const languages = chooseMany(
      "Languages",
      info.languages.map((tag) => [tag, languageName(tag)]),
      [],
      (chosen) => change({ language: chosen, only: null }),
      { none: "all; type to choose", tagged: true },
    );
    const search = h("input", {
      type: "search",
      id: fresh("search"),
      placeholder: "Light up items that hold…",
      oninput: debounced(() => change({ q: search.value.trim() || null }, true), 150),
    });
    return {
      nodes: [
        h(
          "div",
          { class: "row" },
          color.node,
          method.node,
          points.node,
          pooling && pooling.node,
          modality && modality.node,
          labels.node,
        ),
        h(
          "div",
          { class: "row" },
          languages.node,
          h("div", { class: "field grow" }, h("label", { for: search.id }, "Search"), search),
        ),
      ],
      set: (selection) => {
        color.set(selection.color);
        labels.set(selection.labels);
        method.set(selection.query.method);
        points.set(selection.query.points);
        if (pooling) pooling.set(selection.query.pooling);
        if (modality) modality.set(selection.query.modality[0] ?? "");
        languages.set(selection.query.language);
        if (search !== document.activeElement) search.value = selection.q;
      },
    };
  }

  /** Shows the asked layer, colors and lit points. */
  #draw(glide) {
    this.#paint();
    this.plane.place(this.map.places.get(this.selection.layer), glide && !still.matches);
    if (this.selection.at !== this.at || !glide) {
      this.at = this.selection.at;
      this.plane.lookAt(this.selection.at);
    }
    this.#foot();
  }

  #toggleLasso() {
    const on = this.lasso.getAttribute("aria-pressed") !== "true";
    this.lasso.setAttribute("aria-pressed", String(on));
    this.plane.drawsAreas(on);
  }

  /** Chooses what an area of the layer that is shown holds. */
  #choose(path) {
    change({ area: areaOf(path), "area-layer": this.selection.layer });
  }

  /** Finds what the address's area holds, at the layer where it was drawn, and shows it. */
  #select() {
    const { corners, areaLayer, layer } = this.selection;
    const points = this.map.places.get(areaLayer) ?? this.map.places.get(layer);
    const key = JSON.stringify([this.key, corners, areaLayer]);
    if (key === this.areaKey) return;
    this.areaKey = key;
    this.chosen = corners ? within(corners, points) : [];
    const context = {
      store: this.store,
      layer: areaLayer ?? layer,
      toItem: (item) => sibling("map", { ...this.#here(), item }),
      onclear: () => change({ area: null, "area-layer": null }),
    };
    fill(this.selected, corners && selectionPanel(this.map.items, this.chosen, context));
    if (corners) say(`${plural(this.chosen.length, "item")} selected`);
  }

  #here() {
    const { params } = read();
    return Object.fromEntries([...params.keys()].map((name) => [name, params.getAll(name)]));
  }

  #paint() {
    const { selection, map } = this;
    this.#select();
    const kinds = this.#kinds();
    const only = new Set(selection.only);
    const found = selection.q ? holding(map.items, selection.q) : [];
    const usual = selection.q || selection.corners ? DIM : PLAIN;
    const state = new Uint8Array(map.count);
    for (let i = 0; i < map.count; i += 1) state[i] = only.size && !only.has(kinds.names[kinds.of[i]]) ? DIM : usual;
    for (const i of [...found, ...this.chosen]) state[i] = LIT;
    const picked = this.places.get(selection.item);
    this.equivalents = picked === undefined ? [] : equivalents(this.concepts, picked);
    for (const i of this.equivalents) state[i] = LIT;
    this.plane.paint(looks(kinds), state);
    this.#drawLegend(kinds, only);
    const sought = selection.q && `${plural(found.length, "point")} of ${count(map.count)} hold “${selection.q}”`;
    if (sought && sought !== this.sought) say(sought);
    this.sought = sought;
  }

  /** The kinds of the coloring that is asked for; those of density are of the layer. */
  #kinds() {
    const { color, layer } = this.selection;
    const key = color === "density" ? `density ${layer}` : color;
    if (this.kinds[0] !== key) this.kinds = [key, kindsOf(color, this.info, this.map.items, this.map.places.get(layer))];
    return this.kinds[1];
  }

  /** The words of the clusters of the layer that is shown. */
  #labels() {
    const { layer } = this.selection;
    if (!this.labels.has(layer)) {
      const pivot = pivotOf(this.info.partitions);
      this.labels.set(layer, clusterLabels(this.map.items, this.concepts.of, this.map.places.get(layer), pivot));
    }
    return this.labels.get(layer);
  }

  #drawLegend(kinds, only) {
    const { color } = this.selection;
    const key = JSON.stringify([
      color,
      color === "density" && this.selection.layer,
      [...only],
      kinds.names.length,
      this.key,
      document.documentElement.dataset.theme,
      ours("--paper"),
    ]);
    if (key === this.legendKey) return;
    this.legendKey = key;
    drawLegend(this.legend, kinds, {
      heading: this.colorings.find(([name]) => name === color)[1],
      byLanguage: color === "language",
      only,
      ontoggle: (name) => {
        const next = new Set(only);
        if (!next.delete(name)) next.add(name);
        change({ only: [...next] });
      },
    });
  }

  #foot() {
    const { about, count: shown } = this.map;
    const { selection } = this;
    const share = shareExplained(about, selection.layer);
    const key = JSON.stringify([this.key, selection.layer]);
    if (key === this.footKey) return;
    this.footKey = key;
    const query = { ...selection.query, layer: selection.layer };
    fill(
      this.foot,
      h(
        "p",
        { class: "soft" },
        shown < this.info.items
          ? `${count(shown)} of ${count(this.info.items)} items, sampled by concept. `
          : `${plural(shown, "item")}. `,
        share !== null && `The two axes hold ${Math.round(100 * share)} % of the variance. `,
        "Each layer is scaled to fit, and turned to meet the one before.",
      ),
      downloads(
        storePath(this.store, "projection"),
        query,
        fileName(this.store, "map", selection.query.method, selection.layer),
        () => this.plane.png(ours("--paper")),
      ),
    );
  }

  #showItem(id) {
    this.item = id;
    if (!id) {
      this.side.put(h("p", { class: "soft" }, "Click a point to see the item and lines to its equivalents."));
      return;
    }
    this.side.fill(async (signal) => {
      const item = await fetchItem(this.store, id, signal);
      const here = this.#here();
      return [
        h(
          "div",
          { class: "row between" },
          h("h2", {}, "Item"),
          h(
            "button",
            {
              type: "button",
              class: "quiet",
              "aria-label": "Put the item away",
              onclick: () => change({ item: null }),
            },
            "×",
          ),
        ),
        itemCard(this.info, item, { view: "map", toItem: (other) => sibling("map", { ...here, item: other }) }),
        !this.places?.has(id) && this.map && h("p", { class: "soft" }, "It is not among the points drawn."),
      ];
    });
  }

  #hover(i) {
    this.hovered = i < 0 ? [] : equivalents(this.concepts, i);
    const { tip } = this;
    tip.hidden = i < 0;
    if (i >= 0) {
      const { items } = this.map;
      fill(
        tip,
        h("p", { dir: "auto" }, visible(items.text[i] || items.id[i], 140)),
        h(
          "small",
          {},
          languageName(items.language[i]),
          items.modality[i] === "text" ? "" : `, ${items.modality[i]}`,
          " · ",
          bdi(items.id[i], 40),
        ),
      );
      const [x, y] = this.plane.at(i);
      const left = x > this.plane.width / 2;
      tip.style.transform = `translate(${left ? x - 14 : x + 14}px, ${y}px) translate(${left ? "-100%" : "0"}, -50%)`;
    }
    this.plane.drawAbove();
  }

  /** Lines from the picked and the hovered item to their equivalents, and rings around them. */
  #overlay(context) {
    if (!this.map?.count) return;
    const ink = ours("--ink");
    const { corners, areaLayer, layer } = this.selection;
    if (corners && areaLayer === layer) this.plane.outline(context, corners);
    const alone = this.selection.labels && this.equivalents.length < 2 && this.plane.time === 1;
    if (alone) drawLabels(context, this.plane, this.#labels());
    drawStar(context, this.plane, this.equivalents, { color: ink, width: 1.4, opacity: 0.7 });
    if (this.equivalents.length <= NAMED) drawNames(context, this.plane, this.map.items, this.equivalents);
    drawStar(context, this.plane, this.hovered, { color: ink, width: 1, opacity: 0.45 });
  }
}

/** The share of a layer's variance along both axes, where the answer tells. */
function shareExplained(about, layer) {
  const told = about.explained?.[layer] ?? null;
  return Array.isArray(told) ? told[0] + told[1] : null;
}
