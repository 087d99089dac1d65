/** Steering: what the model says after a prompt, as it is and pushed along a direction, side by side. */

import { postLong, records, storePath } from "./api.js";
import { choice, segmented, tick, typedText, wholeNumber } from "./controls.js";
import { empty, fresh, h, say } from "./dom.js";
import { Pane } from "./pane.js";
import { layerSlider } from "./slider.js";
import { change } from "./state.js";
import { bdi, number, partitionName, visible } from "./words.js";

export const title = "Steering";

const [FIRST_FROM, FIRST_TO, FIRST_PROMPT] = ["I hate this", "I love this", "I went to the cinema, and the film was"];
const [MOST, STEP] = [8, 0.25]; // of the strength
const TOKENS = 24;
const MOST_TOKENS = 128;

/** Opens the view. */
export function open(context) {
  const view = context.info.generator ? new SteerView(context) : { node: without(context.info), show() {}, close() {} };
  return { node: view.node, show: (params) => view.show(params), close: () => view.close() };
}

function without({ name }) {
  return h(
    "div",
    {},
    h("h1", {}, "Steering"),
    empty(
      "This server has no model that says next words.",
      "Steering adds a direction to the model's states while it goes on from a prompt. Start the server with the store's model:",
      h("code", {}, `hubstore serve ${name}.hub --model MODEL`),
    ),
  );
}

class SteerView {
  constructor({ store, info }) {
    this.store = store;
    this.info = info;
    this.pane = new Pane("Continuations", { class: "steered" });
    this.scale = h("p", { class: "soft", role: "status" });
    this.layers = info.layers.filter((layer) => layer !== "final");
    this.controls = this.#controls();
    const { prompt, kind, from, to, away, toward, strength, layer, tokens, every } = this.controls;
    this.texts = h("div", { class: "row" }, from.node, to.node);
    this.means = h("div", { class: "row" }, away.node, toward.node);
    this.node = h(
      "div",
      {},
      h("h1", {}, "Steering"),
      h(
        "div",
        { class: "controls" },
        h("div", { class: "row" }, prompt.node),
        h("div", { class: "row" }, kind.node),
        this.texts,
        this.means,
        h("div", { class: "row" }, tokens.node, every.node),
      ),
      layer.node,
      strength.node,
      this.scale,
      this.pane.node,
    );
  }

  show(params) {
    const selection = question(this.info, this.layers, params);
    const { controls } = this;
    for (const name of ["prompt", "kind", "from", "to", "away", "toward", "strength", "layer", "tokens", "every"])
      controls[name].set(selection[name]);
    this.texts.hidden = selection.kind !== "texts";
    this.means.hidden = selection.kind === "texts";
    this.#ask(selection);
  }

  close() {
    this.controls.layer.close();
    this.pane.stop();
  }

  #controls() {
    const { info } = this;
    const partitions = info.partitions.map((one) => [one.name, partitionName(one.name)]);
    const typed = (label, name) => typedText(label, "", (value) => change({ [name]: value || null }, true), { rows: 1 });
    const layer = layerSlider((value) => change({ layer: value }, true));
    layer.offer(this.layers);
    return {
      prompt: typed("Prompt", "prompt"),
      kind: segmented(
        "The direction is the difference of",
        [
          ["texts", "Two texts"],
          ...(info.partitions.length > 1 ? [["means", "Two languages' means"]] : []),
        ],
        (value) => change({ of: value === "texts" ? null : value }),
      ),
      from: typed("Away from", "from"),
      to: typed("Toward", "to"),
      away: choice("Away from", partitions, (value) => change({ away: value })),
      toward: choice("Toward", partitions, (value) => change({ toward: value })),
      strength: strengthSlider((value) => change({ strength: value }, true)),
      layer,
      tokens: wholeNumber("New tokens", 1, MOST_TOKENS, (value) => change({ tokens: value })),
      every: tick("Steer every new token too", (value) => change({ every: value ? "1" : null })),
    };
  }

  #ask(selection) {
    const { prompt, kind, from, to, away, toward } = selection;
    const sides = kind === "texts" ? [from, to] : [away, toward];
    if (!prompt.trim() || !sides.every((side) => side.trim()) || sides[0] === sides[1]) {
      const what = prompt.trim() ? "Give a direction." : "Type a prompt.";
      this.scale.textContent = "";
      return this.pane.put(empty(what, "The direction needs two sides that differ."));
    }
    return this.pane.fill(async (signal) => {
      const answer = await postLong(storePath(this.store, "steer"), bodyOf(selection), signal);
      this.scale.textContent = explained(selection, answer.about.scale);
      const rows = records(answer);
      say(`Steered: ${visible(rows.at(-1).text, 120)}`);
      return h("div", { class: "sides" }, rows.map((row) => card(row, prompt)));
    }, "The model goes on from the prompt…");
  }
}

function question(info, layers, params) {
  const names = info.partitions.map((one) => one.name);
  const partition = (name, usual) => (names.includes(params.get(name)) ? params.get(name) : (usual ?? ""));
  const middle = layers[Math.floor(layers.length / 2)];
  const strength = Number(params.get("strength") ?? 1);
  return {
    prompt: params.get("prompt") ?? FIRST_PROMPT,
    kind: params.get("of") === "means" && names.length > 1 ? "means" : "texts",
    from: params.get("from") ?? FIRST_FROM,
    to: params.get("to") ?? FIRST_TO,
    away: partition("away", names[0]),
    toward: partition("toward", names[1]),
    layer: layers.includes(params.get("layer")) ? params.get("layer") : middle,
    strength: Number.isFinite(strength) ? Math.min(MOST, Math.max(-MOST, strength)) : 1,
    tokens: Math.min(MOST_TOKENS, Math.max(1, Math.round(Number(params.get("tokens"))) || TOKENS)),
    every: params.get("every") === "1",
  };
}

function bodyOf({ prompt, kind, from, to, away, toward, layer, strength, tokens, every }) {
  const direction =
    kind === "texts" ? { from_texts: [from], to_texts: [to] } : { from_partition: away, to_partition: toward };
  return {
    prompts: [prompt],
    ...direction,
    layer: Number(layer),
    strengths: strength === 0 ? [0] : [0, strength],
    max_new_tokens: tokens,
    every_step: every,
  };
}

/** What the strength means here: how long the direction is beside the state that it is added to. */
function explained({ strength, layer }, { direction, state }) {
  const share = Math.abs(strength) * (direction / state);
  return (
    `Strength 1 adds the whole difference of the two sides, of length ${number(direction)}; the prompt's last state at ` +
    `layer ${layer} has ${number(state)}. So ${number(strength)} moves it by ${number(share)} times its own length` +
    `${share > 2 ? ": far, where a model soon says nothing sensible." : "."}`
  );
}

function card({ strength, text, log_probability: sum, tokens }, prompt) {
  const heading = strength === 0 ? "As the model is" : `Steered, strength ${number(strength)}`;
  const mean = tokens.length ? sum / tokens.length : 0;
  return h(
    "article",
    { class: strength === 0 ? "side" : "side steered-side", "aria-label": heading },
    h("h2", {}, heading),
    h("p", { class: "passage", dir: "auto" }, h("span", { class: "soft" }, visible(prompt)), h("span", {}, visible(text, 4000))),
    h("p", { class: "soft" }, bdi(`${tokens.length} tokens, mean log-probability ${number(mean)}`)),
  );
}

/** The strength, from against the direction to along it. */
function strengthSlider(onchange) {
  const output = h("output", {});
  const show = (value) => {
    output.textContent = number(value);
    range.setAttribute("aria-valuetext", `strength ${number(value)}`);
  };
  let timer = 0;
  const range = h("input", {
    type: "range",
    id: fresh("strength"),
    min: -MOST,
    max: MOST,
    step: STEP,
    oninput: () => {
      show(Number(range.value));
      clearTimeout(timer);
      timer = setTimeout(() => onchange(Number(range.value)), 250);
    },
  });
  output.htmlFor = range.id;
  return {
    node: h("div", { class: "slider" }, h("label", { for: range.id }, "Strength"), range, output),
    set: (value) => {
      range.value = value;
      show(value);
    },
  };
}
