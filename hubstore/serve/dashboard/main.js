/** The page around the views: which store, which view, the token, the scheme, and whether the store has changed. */

import { get, onRevision, storePath, tokensFrom } from "./api.js";
import { dark, schemeChanged } from "./colors.js";
import { empty, fill, h } from "./dom.js";
import { failure } from "./pane.js";
import { address, read, watch } from "./state.js";
import { bdi, plural } from "./words.js";
import * as overview from "./view-overview.js";
import * as curves from "./view-curves.js";
import * as map from "./view-map.js";
import * as neighbors from "./view-neighbors.js";
import * as lens from "./view-lens.js";
import * as steering from "./view-steer.js";
import * as experiments from "./view-experiments.js";

const VIEWS = { overview, curves, map, neighbors, lens, steering, experiments };
const LOOK_AGAIN = 30_000; // milliseconds between looks at whether the store has changed
const KEPT_BY_SIBLINGS = ["store", "item"];
const SCHEMES = { "": ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

const part = (id) => document.getElementById(id);
let stores = null;
let shown = null; // the open view, its name, its store and that store's revision

tokensFrom(askToken);
onRevision(noticeRevision);
drawScheme();
part("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  part("view").focus();
});
part("store").addEventListener("change", (event) => {
  location.hash = address(read().view, { store: event.target.value });
});
part("theme").addEventListener("click", nextScheme);
setInterval(lookAgain, LOOK_AGAIN);
start();

async function start() {
  const wait = h("p", { class: "waiting" }, h("span", { class: "spinner", "aria-hidden": "true" }), "Loading…");
  fill(part("view"), wait);
  try {
    ({ stores } = await get("api/v1/stores"));
  } catch (error) {
    fill(part("view"), failure(error, start));
    return;
  }
  if (!stores.length) {
    fill(
      part("view"),
      empty("This server has no store.", ["Start it with one: ", h("code", {}, "hubstore serve STORE")]),
    );
    return;
  }
  fill(
    part("store"),
    stores.map((one) => h("option", { value: one.name }, one.name)),
  );
  part("store-choice").hidden = stores.length < 2;
  watch(route);
}

/** Shows what the address says: another view is opened anew, the same one is told. */
async function route({ view, params }) {
  const name = VIEWS[view] ? view : "overview";
  const store = stores.some((one) => one.name === params.get("store")) ? params.get("store") : stores[0].name;
  drawNav(name, store, params);
  if (shown?.name === name && shown.store === store) {
    shown.view?.show(params);
    return;
  }
  shown?.view?.close();
  const now = (shown = { name, store, view: null, revision: null });
  document.title = `${VIEWS[name].title} · ${store} · hubstore`;
  part("store").value = store;
  part("notice").hidden = true;
  try {
    const info = await get(storePath(store));
    if (shown !== now) return;
    now.revision = info.revision;
    fill(
      part("store-facts"),
      stores.length < 2 && [bdi(store), " · "],
      plural(info.items, "item"),
      ", ",
      plural(info.layers.length, "layer"),
      !info.complete && " · unfinished",
    );
    now.view = VIEWS[name].open({ stores, store, info });
    fill(part("view"), now.view.node);
    part("view").dataset.view = name;
    scrollTo(0, 0);
    now.view.show(read().params);
  } catch (error) {
    if (shown !== now) return;
    shown = null;
    fill(
      part("view"),
      failure(error, () => route(read())),
    );
  }
}

/** The links to the views are made once and then changed, so that the one that was followed keeps the focus. */
function drawNav(chosen, store, params) {
  const kept = Object.fromEntries(KEPT_BY_SIBLINGS.map((name) => [name, params.get(name)]));
  if (!part("views").firstChild) {
    fill(
      part("views"),
      h(
        "ul",
        {},
        Object.entries(VIEWS).map(([name, { title }]) => h("li", {}, h("a", { "data-view": name }, title))),
      ),
    );
  }
  for (const link of part("views").querySelectorAll("a")) {
    const name = link.dataset.view;
    link.setAttribute("href", address(name, { ...kept, store }));
    link.toggleAttribute("aria-current", name === chosen);
    if (name !== chosen) continue;
    link.setAttribute("aria-current", "page");
    link.scrollIntoView({ inline: "center", block: "nearest" });
  }
}

/** An answer came from another revision than the page shows: new items were appended, or layers indexed. */
function noticeRevision(store, revision) {
  const notice = part("notice");
  if (!shown?.revision || store !== shown.store || revision === shown.revision || !notice.hidden) return;
  fill(
    notice,
    h("span", {}, "The store has changed since this page was loaded. "),
    h("button", { type: "button", class: "primary", onclick: reload }, "Reload"),
  );
  notice.hidden = false;
}

function reload() {
  shown?.view?.close();
  shown = null;
  route(read());
}

async function lookAgain() {
  if (document.hidden || !shown?.revision) return;
  await get(storePath(shown.store)).catch(() => null); // its revision is told to noticeRevision
}

function askToken(refused) {
  const dialog = part("token");
  part("token-wrong").hidden = !refused;
  part("token-value").value = "";
  dialog.oncancel = (event) => event.preventDefault(); // nothing can be shown without one
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(part("token-value").value);
  });
}

function nextScheme() {
  const order = Object.keys(SCHEMES);
  const next = order[(order.indexOf(document.documentElement.dataset.theme ?? "") + 1) % order.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  if (next) localStorage.setItem("hubstore-theme", next);
  else localStorage.removeItem("hubstore-theme");
  drawScheme();
  schemeChanged();
}

function drawScheme() {
  const [sign, words] = SCHEMES[document.documentElement.dataset.theme ?? ""];
  part("theme").textContent = sign;
  part("theme").setAttribute("aria-label", `Color scheme: ${words}`);
  part("theme").title = `Color scheme: ${words}`;
  document.documentElement.style.colorScheme = dark() ? "dark" : "light";
}
