/** A field to choose several of many: chips of what is chosen, a list that is narrowed by typing. */

import { Combobox } from "./combobox.js";
import { fill, h, say } from "./dom.js";
import { count } from "./words.js";

const LISTED = 80;

/**
 * The field, as a node and `set`, which changes what is chosen without a call of `onchange`.
 * @param {string} label
 * @param {[string, string][]} options values, and what they are called.
 * @param {string[]} chosen
 * @param {(chosen: string[]) => void} onchange
 * @param {{most?: number, none?: string, tagged?: boolean}} ways how many may be chosen, what no choice means, and
 *   whether the list shows the values beside what they are called.
 */
export function chooseMany(
  label,
  options,
  chosen,
  onchange,
  { most = Infinity, none = "Type to choose", tagged = false } = {},
) {
  const called = new Map(options);
  const kept = new Set(chosen);
  const chips = h("ul", { class: "chosen", "aria-label": `${label}: chosen` });

  const box = new Combobox(label, {
    multiple: true,
    placeholder: kept.size ? "Add…" : none,
    chosen: ([value]) => kept.has(value),
    draw: ([value, words]) => [
      h("span", { class: "box", "aria-hidden": "true" }),
      words,
      tagged && h("small", {}, ` ${value.replace(":", " ")}`),
    ],
    onpick: ([value]) => {
      if (!kept.has(value) && kept.size >= most) {
        say(`No more than ${most} can be chosen`);
        return;
      }
      if (!kept.delete(value)) kept.add(value);
      box.input.value = "";
      changed();
    },
  });
  const changed = () => {
    draw();
    onchange([...kept]);
  };
  const draw = () => {
    box.input.placeholder = kept.size ? "Add…" : none;
    fill(
      chips,
      [...kept].map((value) =>
        h(
          "li",
          {},
          called.get(value) ?? value,
          h(
            "button",
            {
              type: "button",
              "aria-label": `Remove ${called.get(value) ?? value}`,
              onclick: () => {
                kept.delete(value);
                changed();
                box.input.focus({ preventScroll: true });
                box.close();
              },
            },
            "×",
          ),
        ),
      ),
    );
  };
  const list = () => {
    const words = box.input.value
      .toLowerCase()
      .split(/[\s,–-]+/)
      .filter(Boolean);
    const fitting = options.filter(([value, name]) => fits(`${value} ${name}`.toLowerCase(), words));
    const left = fitting.length - LISTED;
    box.show(
      fitting.slice(0, LISTED),
      left > 0 ? `and ${count(left)} more; type to narrow them` : fitting.length ? null : "Nothing is called that.",
    );
  };
  box.input.addEventListener("input", list);
  box.input.addEventListener("click", list);
  box.input.addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && !box.input.value && kept.size) {
      kept.delete([...kept].at(-1));
      changed();
    }
  });
  draw();
  return {
    node: h(
      "div",
      { class: "field many" },
      h("label", { for: box.input.id }, label),
      h("div", { class: "many-box" }, chips, box.node),
    ),
    set(values) {
      if (values.length === kept.size && values.every((value) => kept.has(value))) return;
      kept.clear();
      for (const value of values) kept.add(value);
      draw();
    },
  };
}

function fits(name, words) {
  const parts = name.split(/[\s·:/–(),-]+/);
  return words.every((word) => parts.some((part) => part.startsWith(word)));
}
