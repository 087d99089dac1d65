/** Colors of categories and of values: told apart by color-blind eyes, readable on light and on dark. */

const LIGHT = ["#0072b2", "#d55e00", "#00856a", "#b0508a", "#946c00", "#2b8cbe", "#5b3a9c", "#5f656d"];
const DARK = ["#4ea8e8", "#f0833c", "#3cc79c", "#e093c4", "#dfb545", "#9adcff", "#a793f0", "#a9b1ba"];
const DASHES = ["solid", "dash", "dot", "dashdot"];

/** Shapes of points, as the renderers know them; with the colors they tell 32 categories apart. */
export const SHAPES = ["circle", "square", "triangle", "diamond"];

const watchers = new Set();
const system = matchMedia("(prefers-color-scheme: dark)");

/** Whether the page is dark now. */
export function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
}

/** Calls `work` when the scheme changes; gives a function that ends this. */
export function onScheme(work) {
  watchers.add(work);
  return () => watchers.delete(work);
}

/** Says that the scheme may have changed. */
export function schemeChanged() {
  for (const work of watchers) work();
}

system.addEventListener("change", schemeChanged);

/** The colors of categories, in the present scheme. */
export function palette() {
  return dark() ? DARK : LIGHT;
}

/** How the category at a place is drawn: its color, its points' shape, its line's dash. */
export function style(place) {
  const colors = palette();
  const round = Math.floor(place / colors.length);
  return {
    color: colors[place % colors.length],
    shape: SHAPES[round % SHAPES.length],
    dash: DASHES[round % DASHES.length],
  };
}

/** How many categories look different from each other. */
export const DISTINCT = LIGHT.length * SHAPES.length;

/** A color of the page's own, such as "--ink". */
export function ours(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A color of six hexadecimal digits with transparency. */
export function faint(color, opacity) {
  return `rgba(${rgb(color).join(",")},${opacity})`;
}

/** Red, green and blue of a color of six hexadecimal digits, 0 to 255. */
export function rgb(color) {
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
}

/** The ends of the scale of values: what little is, and what much is. */
export function scale() {
  return dark() ? ["#1c2127", "#2b7fc4"] : ["#f6f8fa", "#0a5fa3"];
}

const HALFWAY = 0.179; // the luminance on which black and white both have the contrast of 4.58

/** A value of 0 to 1 as a background and the ink that reads on it. */
export function shade(share) {
  const [from, to] = scale().map(rgb);
  const mixed = from.map((low, i) => Math.round(low + (to[i] - low) * Math.min(1, Math.max(0, share))));
  return { background: `rgb(${mixed.join(",")})`, ink: luminance(mixed) > HALFWAY ? "#000000" : "#ffffff" };
}

/** Relative luminance as WCAG 2 defines it. */
function luminance(channels) {
  const [red, green, blue] = channels.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
