/** Numbers, names and a corpus's text as the page shows them. */

import { h } from "./dom.js";

const REORDERING = /[\u202a-\u202e\u2066-\u2069]/;
const UNSEEN = /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}\u202a-\u202e\u2066-\u2069]/gu;
const NO_LANGUAGE = { zxx: "no language", und: "unknown language", mul: "several languages" };
const names = new Intl.DisplayNames(["en"], { type: "language" });
const nameByTag = new Map(); // thousands of pairs ask for the names of a few languages
const counts = new Intl.NumberFormat("en");

export const TEXT_LIMIT = 400;

/** What analyses call all partitions together. */
export const WHOLE = "*";

/** Three significant digits, or a dash where there is no number. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2);
  return size < 1000 ? String(Number(value.toPrecision(3))) : counts.format(Math.round(value));
}

/** A number and its interval, where it has one. */
export function withInterval(value, low, high) {
  return Number.isFinite(low) && low !== null ? `${number(value)} [${number(low)}, ${number(high)}]` : number(value);
}

/** A whole number with its thousands apart. */
export function count(value) {
  return value === null || value === undefined ? "–" : counts.format(value);
}

/** "1 item", "2 items". */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** A layer's name as a reader should understand it. */
export function layerLabel(layer) {
  return { 0: "0 (embeddings)", final: "final (after the norm)" }[layer] ?? layer;
}

/** What a BCP 47 tag is called in English; the tag itself where that is not known. */
export function languageName(tag) {
  if (!nameByTag.has(tag)) nameByTag.set(tag, nameOf(tag));
  return nameByTag.get(tag);
}

function nameOf(tag) {
  if (!tag) return "no language";
  try {
    return NO_LANGUAGE[tag] ?? names.of(tag) ?? tag;
  } catch {
    return tag; // a corpus may call a language anything
  }
}

/** What a partition is called in a narrow place: "English", "image: no language". */
export function partitionLabel(name) {
  if (name === WHOLE) return "all together";
  const [language, modality] = name.split("/").reverse();
  return (modality ? `${modality}: ` : "") + languageName(language);
}

/** What a partition is called: "en · English", "image: zxx · no language". */
export function partitionName(name) {
  if (name === WHOLE) return "all together";
  const [language, modality] = name.split("/").reverse();
  const known = languageName(language);
  const called = known === language ? language : `${language} · ${known}`;
  return modality ? `${modality}: ${called}` : called;
}

/** `text` in one line, with what would hide or reorder it spelled out, cut to `limit` characters. */
export function visible(text, limit = TEXT_LIMIT) {
  const cut = text.length > limit ? `${text.slice(0, limit).trimEnd()}…` : text;
  return cut.replace(UNSEEN, (one) =>
    !REORDERING.test(one) && /\s/.test(one)
      ? " "
      : `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
}

/** A token's text: one that is nothing but spaces or breaks is shown as signs for them. */
export function tokenText(piece, limit) {
  if (/\S/.test(piece)) return visible(piece, limit);
  return piece.slice(0, limit).replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "∅";
}

/** `text` as a Plotly label, which reads some HTML. */
export function inPlotly(text, limit = 80) {
  return visible(text, limit)
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("$", "&#36;");
}

/** A corpus's text in a line of ours: its direction stays its own. */
export function bdi(text, limit = TEXT_LIMIT) {
  return h("bdi", {}, visible(String(text ?? ""), limit));
}

/** A corpus's text as a paragraph of its own. */
export function passage(text, language, limit = TEXT_LIMIT) {
  return h(
    "p",
    { class: "passage", dir: "auto", lang: /^[A-Za-z]{2,3}(-|$)/.test(language ?? "") ? language : null },
    visible(text ?? "", limit),
  );
}

/** What an item is, as chips: its language, where it has one, and its modality, where that is not text. */
export function kindChips({ language, modality }) {
  const name = languageName(language);
  const spoken = modality === "text" || !NO_LANGUAGE[language];
  return [
    spoken &&
      h("span", { class: "chip" }, bdi(language, 24), name !== language && h("span", { class: "soft" }, ` ${name}`)),
    modality !== "text" && h("span", { class: "chip" }, modality),
  ];
}

/** Any JSON value: objects as lists of names and values, however deep. */
export function facts(value) {
  if (Array.isArray(value)) {
    if (value.every((one) => one === null || typeof one !== "object")) return bdi(value.join(", "), 2000);
    return h(
      "ol",
      { class: "plain" },
      value.map((one) => h("li", {}, facts(one))),
    );
  }
  if (value !== null && typeof value === "object") {
    return h(
      "dl",
      { class: "nested" },
      Object.entries(value).map(([name, one]) => [
        h("dt", {}, bdi(name.replaceAll("_", " "))),
        h("dd", { class: isDeep(one) ? "deep" : null }, facts(one)),
      ]),
    );
  }
  if (typeof value === "string" && /^[0-9a-f]{32,}$/.test(value)) {
    return h("span", { class: "digest", title: value }, `${value.slice(0, 16)}…`);
  }
  if (typeof value === "boolean") return value ? "yes" : "no";
  return value === null || value === undefined || value === "" ? "–" : bdi(value, 2000);
}

function isDeep(value) {
  return (
    value !== null &&
    typeof value === "object" &&
    (!Array.isArray(value) || value.some((one) => typeof one === "object"))
  );
}
