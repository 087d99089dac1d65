/** Elements built without HTML strings: whatever a corpus holds can only become text. */

const AFTER_CHILDREN = new Set(["value", "checked", "selected", "disabled", "indeterminate"]);

/**
 * An element.
 * @param {string} name its tag.
 * @param {Object} attributes attributes; `on…` are listeners; null, undefined and false are left out.
 * @param {...any} children nodes or text, nested as they come; null, undefined and false are left out.
 */
export function h(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  const later = [];
  for (const [key, value] of Object.entries(attributes)) {
    if (AFTER_CHILDREN.has(key)) later.push([key, value]);
    else if (value === null || value === undefined || value === false) continue;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...kept(children));
  for (const [key, value] of later) if (value !== null && value !== undefined) node[key] = value;
  return node;
}

/** Puts `children` in the place of what a node holds. */
export function fill(node, ...children) {
  node.replaceChildren(...kept(children));
  return node;
}

function kept(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Puts `children` in the place of what a node holds; a pressed button among them gets the focus that was in it. */
export function refill(node, ...children) {
  const focused = node.contains(document.activeElement);
  fill(node, children);
  if (focused) node.querySelector("[aria-pressed=true]")?.focus();
}

/** Says something to those who cannot see it. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

let number = 0;

/** An id that no other element has. */
export function fresh(prefix) {
  number += 1;
  return `${prefix}-${number}`;
}

/** Calls `work` once no call came for `wait` milliseconds. */
export function debounced(work, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}

/** What to show where there is nothing. */
export function empty(title, ...more) {
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "empty-title" }, title),
    more.map((one) => h("p", {}, one)),
  );
}
