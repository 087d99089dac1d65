/** The layer slider, with a button that plays through the layers. */

import { fresh, h } from "./dom.js";
import { layerLabel } from "./words.js";

const STEP = 900; // milliseconds at a layer

/**
 * The slider: its node, `set`, `offer` for other layers, and `close`.
 * @param {(layer: string) => void} onchange
 */
export function layerSlider(onchange) {
  let layers = [];
  let timer = 0;
  const range = h("input", {
    type: "range",
    min: 0,
    step: 1,
    id: fresh("layer"),
    oninput: () => {
      stop();
      tell(Number(range.value));
    },
  });
  const output = h("output", { for: range.id });
  const play = h("button", { type: "button", class: "play", onclick: () => (timer ? stop() : start()) }, "Play");
  const tell = (place) => {
    set(layers[place]);
    onchange(layers[place]);
  };
  const set = (layer) => {
    range.value = Math.max(0, layers.indexOf(layer));
    output.textContent = layerLabel(layer);
    range.setAttribute("aria-valuetext", `layer ${layerLabel(layer)}`);
  };
  const start = () => {
    play.textContent = "Pause";
    const step = () => {
      const place = Number(range.value) + 1;
      if (place >= layers.length) return stop();
      tell(place);
      return undefined;
    };
    if (Number(range.value) === layers.length - 1) tell(0);
    else step();
    timer = setInterval(step, STEP);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  };
  return {
    node: h("div", { class: "slider" }, h("label", { for: range.id }, "Layer"), range, output, play),
    set,
    offer(given) {
      layers = given;
      range.max = layers.length - 1;
    },
    close: stop,
  };
}
