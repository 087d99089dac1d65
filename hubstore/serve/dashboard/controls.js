/** Controls of a view. Each is a node, and `set`, which shows a value without a call of `onchange`. */

import { debounced, fresh, h } from "./dom.js";

const WAIT = 350; // milliseconds after the last key

/** A label above a control. */
function labeled(label, control) {
  control.id ||= fresh("control");
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control);
}

/**
 * A list to choose one from.
 * @param {(string|[string, string])[]} options values, or values and what they are called.
 */
export function choice(label, options, onchange) {
  const node = h("select", { onchange: () => onchange(node.value) });
  const offer = (given) =>
    node.replaceChildren(
      ...given.map((option) => {
        const [value, words] = Array.isArray(option) ? option : [option, option];
        return h("option", { value }, words);
      }),
    );
  offer(options);
  return {
    node: labeled(label, node),
    set: (value) => {
      node.value = value;
    },
    offer,
  };
}

/** A box to tick. */
export function tick(label, onchange) {
  const box = h("input", { type: "checkbox", onchange: () => onchange(box.checked) });
  return {
    node: h("label", { class: "tick" }, box, h("span", {}, label)),
    set: (value) => {
      box.checked = value;
    },
  };
}

/** A few choices side by side, one of them pressed. */
export function segmented(label, options, onchange) {
  const buttons = options.map(([value, words]) =>
    h("button", { type: "button", onclick: () => onchange(value) }, words),
  );
  const name = fresh("group");
  const group = h("div", { class: "segmented", role: "group", "aria-labelledby": name }, buttons);
  return {
    node: h("div", { class: "field" }, h("span", { class: "label", id: name }, label), group),
    set: (value) =>
      options.forEach(([one], place) => buttons[place].setAttribute("aria-pressed", String(one === value))),
  };
}

/** A whole number. */
export function wholeNumber(label, low, high, onchange) {
  const node = h("input", {
    type: "number",
    min: low,
    max: high,
    step: 1,
    inputmode: "numeric",
    onchange: () => {
      const value = Math.min(high, Math.max(low, Math.round(Number(node.value)) || low));
      node.value = value;
      onchange(value);
    },
  });
  return {
    node: labeled(label, node),
    set: (value) => {
      node.value = value;
    },
  };
}

/** A text that is read while it is typed, a moment after the last key. */
export function typedText(label, value, onchange, { rows = 2, placeholder = "Type a text, in any language" } = {}) {
  let waiting = false; // until what was typed last is told, nothing else may take its place
  const tell = debounced(() => {
    waiting = false;
    onchange(input.value);
  }, WAIT);
  const input = h("textarea", {
    id: fresh("typed"),
    rows,
    dir: "auto",
    placeholder,
    value,
    oninput: () => {
      waiting = true;
      tell();
    },
  });
  return {
    node: h("div", { class: "field grow" }, h("label", { for: input.id }, label), input),
    set: (text) => {
      if (input !== document.activeElement && !waiting) input.value = text;
    },
  };
}
