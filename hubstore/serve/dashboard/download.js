/** Downloads: tables as CSV and Parquet, fetched with the token, and figures as PNG. */

import { blob, withQuery } from "./api.js";
import { h, say } from "./dom.js";

/**
 * Links that download a table.
 * @param {string} path of a table of the server.
 * @param {string} name of the file, without its ending.
 * @param {(() => Promise<Blob>)|null} image makes a PNG of what is shown.
 */
export function downloads(path, query, name, image = null) {
  const tables = [
    ["csv", "CSV"],
    ["parquet", "Parquet"],
  ].map(([format, label]) =>
    downloadLink(label, withQuery(path, { ...query, format }), `${name}.${format}`, () =>
      blob(path, { ...query, format }),
    ),
  );
  return h(
    "p",
    { class: "downloads" },
    h("span", {}, "Download "),
    tables,
    image && downloadLink("PNG", null, `${name}.png`, image),
  );
}

/** A link where there is an address to copy, a button where what it saves is made here. */
export function downloadLink(label, href, file, make) {
  const node = href ? h("a", { href, download: file }) : h("button", { type: "button", class: "link" });
  node.textContent = label;
  node.addEventListener("click", async (event) => {
    event.preventDefault(); // the browser's own request would lack the token
    node.setAttribute("aria-busy", "true");
    try {
      save(await make(), file);
      say(`${file} is downloaded`);
      node.textContent = label;
    } catch (error) {
      node.textContent = `${label}: ${error.message}`;
    } finally {
      node.removeAttribute("aria-busy");
    }
  });
  return node;
}

/** Hands bytes to the browser as a file. */
function save(bytes, file) {
  const url = URL.createObjectURL(bytes);
  h("a", { href: url, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Words as a file's name. */
export function fileName(...words) {
  return words
    .join("-")
    .replace(/[^\p{L}\p{N}._-]+/gu, "-")
    .slice(0, 120);
}
