/** Neighbors of an item, a text, an image or audio, layer by layer side by side. */

import { get, post, postFile, records, storePath } from "./api.js";
import { chooseItem } from "./choose-item.js";
import { chooseMany } from "./choose-many.js";
import { choice, segmented, tick, wholeNumber } from "./controls.js";
import { empty, fresh, h, refill, say } from "./dom.js";
import { downloads, fileName } from "./download.js";
import { dropZone } from "./drop.js";
import { columns } from "./hits.js";
import { fetchItem, itemCard } from "./item-card.js";
import { Pane } from "./pane.js";
import { itemPoolings, spread } from "./curves-data.js";
import { change, sibling } from "./state.js";
import { languageName, layerLabel, partitionName, plural } from "./words.js";

export const title = "Neighbors";

const AT_FIRST = 3; // layers
const MOST_LAYERS = 12;
const MOST = 200; // neighbors

/** Opens the view. */
export function open(context) {
  const view = new NeighborsView(context);
  return { node: view.node, show: (params) => view.show(params), close: () => view.close() };
}

class NeighborsView {
  constructor({ store, info }) {
    this.store = store;
    this.info = info;
    this.file = null;
    this.asking = h("div", { class: "asking" });
    this.about = new Pane("What is asked", { class: "subject" });
    this.found = new Pane("Neighbors", { class: "found" });
    this.controls = this.#controls();
    this.node = h(
      "div",
      { class: "neighbors" },
      h("h1", {}, "Neighbors"),
      this.asking,
      h(
        "details",
        { class: "filters", open: innerWidth > 700 },
        h("summary", {}, "Layers and filters"),
        h("div", { class: "controls" }, this.controls.nodes),
      ),
      this.about.node,
      this.found.node,
    );
  }

  show(params) {
    const selection = question(this.info, params);
    this.selection = selection;
    if (selection.by !== this.by) this.#drawAsking(selection);
    if (selection.by === "text" && document.activeElement !== this.text) this.text.value = selection.text ?? "";
    this.controls.set(selection);
    const subject = JSON.stringify([selection.by, selection.item, selection.by === "file" && this.file?.name]);
    if (subject !== this.subject) {
      this.subject = subject;
      this.#showAbout(selection);
    }
    this.#search(selection);
  }

  close() {
    this.about.stop();
    this.found.stop();
  }

  /** The field or the zone for what is looked for. */
  #drawAsking(selection) {
    this.by = selection.by;
    const ways = [
      ["item", "An item"],
      ["text", "A text"],
      ["file", "An image or audio"],
    ];
    const kinds = segmented("Neighbors of", ways, (value) => change({ by: value === "item" ? null : value }));
    kinds.set(selection.by);
    const field =
      selection.by === "item"
        ? chooseItem(this.store, (id) => change({ item: id, by: null }))
        : selection.by === "text"
          ? this.#textField(selection)
          : dropZone((file) => {
              this.file = file;
              this.subject = null;
              this.show(new URLSearchParams(location.hash.split("?")[1]));
            });
    refill(
      this.asking,
      h("div", { class: "row" }, kinds.node, selection.by === "item" || this.info.encoder ? field : null),
      selection.by !== "item" &&
        !this.info.encoder &&
        empty("This server reads no new texts, images or audio.", [
          "Start it with the store's model: ",
          h("code", {}, `hubstore serve ${this.info.name}.hub --model MODEL`),
          ". Items of the store can be looked for without one.",
        ]),
    );
  }

  #textField(selection) {
    this.text = h("textarea", {
      id: fresh("text"),
      rows: 2,
      dir: "auto",
      placeholder: "Type a text, in any language",
      value: selection.text ?? "",
      onkeydown: (event) => {
        if (event.key === "Enter" && !event.shiftKey) {
          event.preventDefault();
          submit();
        }
      },
    });
    const submit = () => change({ text: this.text.value.trim() || null });
    return h(
      "div",
      { class: "field grow" },
      h("label", { for: this.text.id }, "Text"),
      h(
        "div",
        { class: "row tight" },
        this.text,
        h("button", { type: "button", class: "primary", onclick: submit }, "Find"),
      ),
    );
  }

  #controls() {
    const { info } = this;
    const layers = chooseMany(
      "Layers side by side",
      info.layers.map((one) => [one, layerLabel(one)]),
      [],
      (chosen) => change({ layer: info.layers.filter((one) => chosen.includes(one)) }),
      { most: MOST_LAYERS },
    );
    const languages = chooseMany(
      "Only these languages",
      info.languages.map((tag) => [tag, languageName(tag)]),
      [],
      (chosen) => change({ language: chosen }),
      { none: "all; type to choose", tagged: true },
    );
    const k = wholeNumber("Neighbors", 1, MOST, (value) => change({ k: value }));
    const modality =
      info.modalities.length > 1 &&
      choice("Modality", [["", "all"], ...info.modalities], (value) => change({ modality: value || null }));
    const poolings = itemPoolings(info);
    const pooling = poolings.length > 1 && choice("Pooling", poolings, (value) => change({ pooling: value }));
    const group = segmented(
      "Grouped by",
      [["", "Nothing"], ["language", "Language"], ...(info.modalities.length > 1 ? [["modality", "Modality"]] : [])],
      (value) => change({ group: value || null }),
    );
    const spoken = choice(
      "The text is in",
      [["", "not said"], ...info.languages.map((tag) => [tag, partitionName(tag)])],
      (value) => change({ in: value || null }),
    );
    const others = tick("Other languages only", (value) => change({ others: value ? "1" : null }));
    const centered = tick("Means removed", (value) => change({ centered: value ? "1" : null }));
    return {
      nodes: [
        h("div", { class: "row" }, layers.node, languages.node),
        h(
          "div",
          { class: "row" },
          k.node,
          modality && modality.node,
          pooling && pooling.node,
          group.node,
          spoken.node,
          others.node,
          centered.node,
        ),
      ],
      set(selection) {
        layers.set(selection.layers);
        languages.set(selection.languages);
        k.set(selection.k);
        if (modality) modality.set(selection.modality ?? "");
        if (pooling) pooling.set(selection.pooling);
        group.set(selection.group);
        spoken.node.hidden = selection.by !== "text";
        spoken.set(selection.spoken ?? "");
        others.set(selection.others);
        centered.set(selection.centered);
      },
    };
  }

  #showAbout({ by, item }) {
    if (by !== "item" || !item) {
      this.about.put();
      return;
    }
    this.about.fill(async (signal) => {
      const found = await fetchItem(this.store, item, signal);
      return itemCard(this.info, found, { view: "neighbors" });
    });
  }

  #search(selection) {
    if (selection.by !== "item" && !this.info.encoder) {
      this.found.put(); // the place of the field says why
      return;
    }
    const nothing = missing(selection, this.file);
    if (nothing) {
      this.found.put(nothing(this));
      return;
    }
    this.found.fill(async (signal) => {
      const answer = await this.#ask(selection, signal);
      const hits = records(answer);
      if (!hits.length) return empty("Nothing passes these filters.", "Choose other languages, or a larger number.");
      const concept = selection.by === "item" ? (await fetchItem(this.store, selection.item, signal)).concept : null;
      say(`${plural(selection.layers.length, "layer")}, ${plural(hits.length, "neighbor")} in all`);
      return [columns(this.info, hits, { ...selection, concept, kinds: answer.about?.indexes ?? {} }), this.#foot(selection)];
    }, "Searching…");
  }

  #ask(selection, signal) {
    const path = storePath(this.store, "neighbors");
    if (selection.by === "item") return get(path, { id: selection.item, ...options(selection) }, signal);
    if (selection.by === "text") {
      return post(
        path,
        {
          texts: [selection.text],
          layers: selection.layers,
          k: selection.k,
          pooling: selection.pooling,
          languages: selection.languages.length ? selection.languages : null,
          modalities: selection.modality ? [selection.modality] : null,
          exclude_same_language: selection.others,
          centered: selection.centered,
          query_language: selection.spoken,
        },
        signal,
      );
    }
    const kind = this.file.type.startsWith("audio/") ? "audio" : "image";
    return postFile(`${path}/${kind}`, options(selection), this.file, signal);
  }

  #foot(selection) {
    const of = selection.centered ? " without the mean of each language and modality" : "";
    const words = `Scores are cosines${of}. A tick marks an item of the same concept.`;
    return h(
      "div",
      { class: "figure-foot" },
      h("p", { class: "soft" }, words),
      selection.by === "item" &&
        downloads(
          storePath(this.store, "neighbors"),
          { id: selection.item, ...options(selection) },
          fileName(this.store, "neighbors", selection.item),
        ),
    );
  }
}

/** What the parameters ask for. */
function question(info, params) {
  const poolings = itemPoolings(info);
  const layers = info.layers.filter((one) => params.getAll("layer").includes(one));
  const by = ["text", "file"].includes(params.get("by")) ? params.get("by") : "item";
  return {
    by,
    item: params.get("item"),
    text: params.get("text"),
    layers: layers.length ? layers : spread(info.layers, AT_FIRST),
    k: Math.min(MOST, Math.max(1, Number(params.get("k")) || 10)),
    languages: params.getAll("language"),
    modality: params.get("modality"),
    pooling: poolings.includes(params.get("pooling")) ? params.get("pooling") : poolings[0],
    others: params.get("others") === "1",
    centered: params.get("centered") === "1",
    spoken: params.get("in"),
    group: ["language", "modality"].includes(params.get("group")) ? params.get("group") : "",
  };
}

function options({ layers, k, pooling, languages, modality, others, centered }) {
  const limits = { language: languages, modality, exclude_same_language: others || null };
  return { layer: layers, k, pooling, ...limits, centered: centered || null };
}

/** What to say where there is no query yet, or null. */
function missing({ by, item, text, others, centered, spoken }, file) {
  if (by === "item" && !item) {
    return ({ info }) =>
      empty(
        "Choose an item.",
        "Type some of its text above, or begin with one of these:",
        h(
          "span",
          { class: "further" },
          info.partitions
            .slice(0, 6)
            .map((one) =>
              h(
                "button",
                { type: "button", class: "link", onclick: () => first(info.name, one) },
                partitionName(one.name),
              ),
            ),
        ),
      );
  }
  if (by === "text" && !text) return () => empty("Type a text.", "Enter looks for its neighbors.");
  if (by === "text" && (others || centered) && !spoken) {
    const what = others ? "be left out" : "have its mean removed";
    return () =>
      empty("Which language is the text in?", `Say it above, so that ${languageName("en")} or another can ${what}.`);
  }
  if (by === "file" && !file)
    return () =>
      empty(
        "Give an image or audio.",
        "It is sent to this server and kept nowhere; a link to this page does not hold it.",
      );
  return null;
}

/** Goes to the first item of a partition. */
async function first(store, { name }) {
  const found = await get(storePath(store, "items"), { partition: name, limit: 1 });
  if (found.rows) location.hash = sibling("neighbors", { item: found.columns.id[0] });
}
