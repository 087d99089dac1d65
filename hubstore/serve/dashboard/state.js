/** What is shown, as the page's address: #/view?name=value&… Every state can be linked, and back goes back. */

/** Words of addresses of the release before, which still lead there: deprecated. */
const OLDER = { neighbours: "neighbors", centred: "centered", colour: "color" };
const OLDER_VARIANTS = { centred: "centered", csls_centred: "csls_centered" };

const watchers = new Set();
let shown = null;

/** The view and its parameters. */
export function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const params = new URLSearchParams();
  for (const [name, value] of new URLSearchParams(query)) {
    params.append(OLDER[name] ?? name, name === "variant" ? (OLDER_VARIANTS[value] ?? value) : value);
  }
  return { view: OLDER[path] ?? (path || "overview"), params };
}

/**
 * The address of a view.
 * @param {Object<string, string|number|string[]|null>} params those that are null or empty are left out.
 */
export function address(view, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") query.append(name, String(one));
    }
  }
  const words = query.toString();
  return `#/${view}${words ? `?${words}` : ""}`;
}

/** The address of another view of the same store. */
export function sibling(view, params = {}) {
  return address(view, { store: read().params.get("store"), ...params });
}

/** Goes to a view. */
export function go(view, params = {}) {
  move(address(view, params), false);
}

/**
 * Changes some parameters of the present view.
 * @param {Object} changed new values by name; null takes one away.
 * @param {boolean} [replace] without a step in the history, as while something is dragged.
 */
export function change(changed, replace = false) {
  const { view, params } = read();
  const all = {};
  for (const name of new Set(params.keys())) all[name] = params.getAll(name);
  move(address(view, { ...all, ...changed }), replace);
}

/** Calls `work` with the view and its parameters now and whenever they change. */
export function watch(work) {
  watchers.add(work);
  tell();
}

function move(hash, replace) {
  if (hash === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  tell();
}

function tell() {
  if (location.hash === shown) return;
  shown = location.hash;
  for (const work of watchers) work(read());
}

addEventListener("popstate", tell);
addEventListener("hashchange", tell);
