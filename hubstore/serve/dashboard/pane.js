/** A part of the page that is filled by something that takes time: its loading state, its errors, its latest answer. */

import { fill, h, say } from "./dom.js";

const PATIENCE = 180; // milliseconds before a loading state shows: what is quick does not flicker

export class Pane {
  /** @param {string} name of the region, for those who hear the page. */
  constructor(name, attributes = {}) {
    this.node = h("section", { "aria-label": name, ...attributes, class: `pane ${attributes.class ?? ""}` });
    this.request = null;
  }

  /**
   * Shows what `work` gives; what an earlier call still waits for is given up.
   * @param {(signal: AbortSignal) => Promise<Node|Node[]>} work
   * @param {string} [waiting] what takes so long, in words.
   */
  async fill(work, waiting = "Loading…") {
    this.request?.abort();
    const request = (this.request = new AbortController());
    const timer = setTimeout(() => this.#wait(waiting), PATIENCE);
    this.node.setAttribute("aria-busy", "true");
    try {
      const found = await work(request.signal);
      if (this.request === request && found !== undefined) fill(this.node, found);
    } catch (error) {
      if (this.request === request && error.name !== "AbortError") this.#fail(error, () => this.fill(work, waiting));
    } finally {
      clearTimeout(timer);
      if (this.request === request) {
        this.node.removeAttribute("aria-busy");
        this.node.querySelector(":scope > .waiting")?.remove();
      }
    }
  }

  /** Shows nodes at once. */
  put(...nodes) {
    this.stop();
    fill(this.node, nodes);
  }

  /** Gives up what is waited for. */
  stop() {
    this.request?.abort();
    this.request = null;
    this.node.removeAttribute("aria-busy");
  }

  #wait(words) {
    this.node.querySelector(":scope > .waiting")?.remove();
    const past = h("span", { "aria-hidden": "true" });
    const spinner = h("span", { class: "spinner", "aria-hidden": "true" });
    this.node.prepend(h("p", { class: "waiting" }, spinner, h("span", {}, words), past));
    say(words);
    const started = performance.now();
    const count = setInterval(() => {
      if (!past.isConnected) return clearInterval(count);
      const seconds = Math.round((performance.now() - started) / 1000);
      past.textContent = seconds < 4 ? "" : `${seconds} s`;
      return undefined;
    }, 1000);
  }

  #fail(error, again) {
    fill(this.node, failure(error, again));
  }
}

/** An error in the place where its answer would be. */
export function failure(error, again = null) {
  if (!error.kind) console.warn(error); // not an answer of the server's
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("p", {}, h("strong", {}, heading(error))),
    h("p", { dir: "auto" }, error.message),
    again && h("button", { type: "button", onclick: again }, "Try again"),
  );
}

function heading(error) {
  if (error.status === 404) return "Not there";
  if (error.status === 501) return "The server was not given what this needs";
  if (error.status === 503) return "The server is busy";
  if (error.status === 504) return "That took too long";
  if (error.status === 413) return "Too large";
  if (error.status === 0) return "The server does not answer";
  if (error.status >= 500) return "The server failed";
  return error.kind ? "The server refused" : "Something went wrong in this page";
}
