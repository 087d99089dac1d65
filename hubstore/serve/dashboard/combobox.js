/** A text field with a list of what fits what was typed: the ARIA combobox pattern, by mouse and by keyboard. */

import { fill, fresh, h } from "./dom.js";

export class Combobox {
  /**
   * @param {string} label of the field.
   * @param {{placeholder?: string, multiple?: boolean, onpick: (option: any) => void,
   *   draw: (option: any) => Node|string, chosen?: (option: any) => boolean}} ways how options are shown and taken.
   */
  constructor(label, ways) {
    this.ways = ways;
    this.options = [];
    this.place = -1;
    const list = fresh("options");
    this.input = h("input", {
      type: "text",
      role: "combobox",
      autocomplete: "off",
      spellcheck: "false",
      "aria-expanded": "false",
      "aria-autocomplete": "list",
      "aria-controls": list,
      placeholder: ways.placeholder ?? null,
      id: fresh("combobox"),
      onkeydown: (event) => this.#key(event),
      onblur: () => this.close(),
    });
    this.list = h("ul", {
      id: list,
      role: "listbox",
      class: "options",
      "aria-label": label,
      hidden: true,
      "aria-multiselectable": ways.multiple ? "true" : null,
      onpointerdown: (event) => event.preventDefault(), // the field keeps the focus
    });
    this.node = h("div", { class: "combobox" }, this.input, this.list);
  }

  /** Opens the list with these options, or with words where there are none. */
  show(options, words = null) {
    this.options = options;
    this.place = this.ways.multiple ? -1 : options.length ? 0 : -1;
    fill(
      this.list,
      options.map((option, place) =>
        h(
          "li",
          {
            role: "option",
            id: `${this.list.id}-${place}`,
            "aria-selected": String(this.#chosen(option, place)),
            onclick: () => this.#pick(place),
          },
          this.ways.draw(option),
        ),
      ),
      words && h("li", { class: "words", role: "presentation" }, words),
    );
    this.list.hidden = false;
    this.list.scrollTop = 0;
    this.input.setAttribute("aria-expanded", "true");
    this.#mark();
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  get isOpen() {
    return !this.list.hidden;
  }

  #chosen(option, place) {
    return this.ways.multiple ? Boolean(this.ways.chosen?.(option)) : place === this.place;
  }

  #mark() {
    const nodes = [...this.list.querySelectorAll("[role=option]")];
    nodes.forEach((node, place) => {
      node.classList.toggle("active", place === this.place);
      node.setAttribute("aria-selected", String(this.#chosen(this.options[place], place)));
    });
    const active = nodes[this.place];
    if (active) this.input.setAttribute("aria-activedescendant", active.id);
    else this.input.removeAttribute("aria-activedescendant");
    active?.scrollIntoView({ block: "nearest" });
  }

  #pick(place) {
    this.ways.onpick(this.options[place]);
    if (this.ways.multiple) this.#mark();
    else this.close();
  }

  #key(event) {
    if (event.key === "Escape" && this.isOpen) {
      event.preventDefault();
      this.close();
    } else if (event.key === "Enter" && this.isOpen && this.place >= 0) {
      event.preventDefault();
      this.#pick(this.place);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!this.isOpen) {
        this.input.dispatchEvent(new Event("input"));
        return;
      }
      const count = this.options.length;
      if (!count) return;
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.place = this.place < 0 ? (step > 0 ? 0 : count - 1) : (this.place + step + count) % count;
      this.#mark();
    }
  }
}
