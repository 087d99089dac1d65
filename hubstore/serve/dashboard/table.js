/** Tables that are sorted by a click on a heading, and show their first rows first. */

import { fill, h } from "./dom.js";
import { count } from "./words.js";

const FIRST_ROWS = 100;

/**
 * A table.
 * @param {string} caption what it holds.
 * @param {{name: string, label?: string, numeric?: boolean, show?: (value: any, row: Object) => any}[]} columns
 * @param {Object[]} rows
 */
export function table(caption, columns, rows, limit = FIRST_ROWS) {
  const body = h("tbody");
  const more = h("p", { class: "more" });
  let shown = limit;
  let order = { name: null, down: false };

  const sorted = () => {
    if (order.name === null) return rows;
    const sign = order.down ? -1 : 1;
    return [...rows].sort((a, b) => sign * compare(a[order.name], b[order.name]));
  };
  const draw = () => {
    fill(
      body,
      sorted()
        .slice(0, shown)
        .map((row) =>
          h(
            "tr",
            {},
            columns.map((column) =>
              h(
                "td",
                { class: column.numeric ? "number" : null },
                column.show ? column.show(row[column.name], row) : String(row[column.name] ?? "–"),
              ),
            ),
          ),
        ),
    );
    fill(
      more,
      rows.length > shown && [
        `${count(shown)} of ${count(rows.length)} rows. `,
        h(
          "button",
          {
            type: "button",
            class: "link",
            onclick: () => {
              shown = rows.length;
              draw();
            },
          },
          "Show all",
        ),
      ],
    );
  };
  const heads = columns.map((column) => {
    const head = h("th", { scope: "col", class: column.numeric ? "number" : null });
    head.append(
      h(
        "button",
        {
          type: "button",
          class: "sort",
          onclick: () => {
            order = { name: column.name, down: order.name === column.name ? !order.down : Boolean(column.numeric) };
            for (const other of heads) other.removeAttribute("aria-sort");
            head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
            draw();
          },
        },
        column.label ?? column.name,
      ),
    );
    return head;
  });
  draw();
  return h(
    "div",
    {},
    h(
      "div",
      { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
      h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, heads)), body),
    ),
    more,
  );
}

const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a ?? ""), String(b ?? ""));
}
