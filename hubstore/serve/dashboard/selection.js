/** Points of the map that an area holds: the area as words of an address, and what is in it. */

import { h } from "./dom.js";
import { downloadLink, fileName } from "./download.js";
import { bdi, count, languageName, plural, visible } from "./words.js";

const CORNERS = 60; // that an area of an address has at most
const LISTED = 100;
const LANGUAGES = 12;
const COLUMNS = ["id", "concept", "language", "modality", "text"];
const FORMULA = /^[=+\-@\t\r]/; // what a spreadsheet would compute

/** A drawn path as words: "x,y;x,y;…", in the map's own units. */
export function areaOf(path) {
  const step = Math.ceil(path.length / CORNERS);
  const kept = path.filter((_, place) => place % step === 0);
  return kept.length < 3 ? null : kept.map((corner) => corner.map((value) => value.toFixed(3)).join(",")).join(";");
}

/** The corners of an area; null for words that are none. */
export function cornersOf(words) {
  const corners = (words ?? "").split(";").map((corner) => corner.split(",").map(Number));
  const whole = corners.length >= 3 && corners.every((one) => one.length === 2 && one.every(Number.isFinite));
  return whole ? corners : null;
}

/** The points inside of corners, by the even-odd rule. */
export function within(corners, points) {
  const found = [];
  for (let i = 0; 2 * i < points.length; i += 1) {
    const [x, y] = [points[2 * i], points[2 * i + 1]];
    let inside = false;
    for (let a = 0, b = corners.length - 1; a < corners.length; b = a, a += 1) {
      const [[ax, ay], [bx, by]] = [corners[a], corners[b]];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
    }
    if (inside) found.push(i);
  }
  return found;
}

/**
 * What was chosen: how many, of which languages, their texts, and their table.
 * @param {Object} items columns of the map's items.
 * @param {number[]} chosen places in them.
 * @param {{store: string, layer: string, toItem: (id: string) => string, onclear: () => void}} context
 */
export function selectionPanel(items, chosen, { store, layer, toItem, onclear }) {
  const clear = { type: "button", class: "quiet", "aria-label": "Put the selection away", onclick: onclear };
  const name = fileName(store, "selection", layer);
  return h(
    "section",
    { "aria-label": "Selection", class: "selection" },
    h("div", { class: "row between" }, h("h2", {}, plural(chosen.length, "item")), h("button", clear, "×")),
    chosen.length > 0 && [
      h("p", { class: "soft" }, languages(items, chosen)),
      h(
        "p",
        { class: "downloads" },
        h("span", {}, "Download "),
        downloadLink("CSV", null, `${name}.csv`, async () => asFile(csv(items, chosen), "text/csv")),
        downloadLink("ids", null, `${name}.txt`, async () => asFile(ids(items, chosen), "text/plain")),
      ),
      h(
        "ol",
        { class: "plain selected-items" },
        chosen
          .slice(0, LISTED)
          .map((i) => h("li", {}, h("a", { href: toItem(items.id[i]) }, text(items, i)), language(items, i))),
      ),
      chosen.length > LISTED && h("p", { class: "soft" }, `and ${count(chosen.length - LISTED)} more`),
    ],
  );
}

function text(items, i) {
  return bdi(items.text[i] || items.id[i], 90);
}

function language(items, i) {
  return h("small", { class: "soft" }, " ", items.modality[i] === "text" ? items.language[i] : items.modality[i]);
}

function languages(items, chosen) {
  const counted = new Map();
  for (const i of chosen) counted.set(items.language[i], (counted.get(items.language[i]) ?? 0) + 1);
  const ordered = [...counted].sort(([, a], [, b]) => b - a);
  const told = ordered.slice(0, LANGUAGES).map(([tag, number]) => `${languageName(tag)} ${count(number)}`);
  return told.join(", ") + (ordered.length > LANGUAGES ? `, and ${count(ordered.length - LANGUAGES)} others` : "");
}

function csv(items, chosen) {
  const cell = (value) => {
    const words = String(value ?? "");
    return `"${(FORMULA.test(words) ? `'${words}` : words).replaceAll('"', '""')}"`;
  };
  const rows = chosen.map((i) => COLUMNS.map((name) => cell(items[name][i])).join(","));
  return `${[COLUMNS.join(","), ...rows].join("\r\n")}\r\n`;
}

function ids(items, chosen) {
  return `${chosen.map((i) => visible(items.id[i], Infinity)).join("\n")}\n`;
}

function asFile(words, type) {
  return new Blob([words], { type: `${type};charset=utf-8` });
}
