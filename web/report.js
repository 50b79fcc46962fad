/** A report as elements of the page. Its text never becomes HTML: every character goes in as text. */

import { parse } from "./markdown.js";
import { compare } from "./sorting.js";

/**
 * @param {string} tag
 * @param {import("./markdown.js").Piece[]} pieces
 * @returns {HTMLElement}
 */
function element(tag, pieces) {
  const made = document.createElement(tag);
  for (const { code, text } of pieces) {
    const run = code ? document.createElement("code") : document.createTextNode(text);
    if (code) run.textContent = text;
    made.append(run);
  }
  return made;
}

/**
 * Sort a table's rows by a column; a second time turns the order round.
 * @param {HTMLTableElement} table
 * @param {HTMLElement} head  The column's head.
 * @param {number} column
 */
function sort(table, head, column) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const text = (row) => row.cells[column]?.textContent ?? "";
  const rows = [...body.rows].sort((a, b) => compare(text(a), text(b)) * (down ? -1 : 1));
  body.append(...rows);
}

/**
 * @param {import("./markdown.js").Table} block
 * @returns {HTMLTableElement}
 */
function tableOf(block) {
  const table = document.createElement("table");
  const heads = table.createTHead().insertRow();
  block.head.forEach((pieces, column) => {
    const head = document.createElement("th");
    const button = element("button", pieces);
    button.type = "button";
    button.addEventListener("click", () => sort(table, head, column));
    head.scope = "col";
    head.append(button);
    heads.append(head);
  });
  const body = table.createTBody();
  for (const row of block.rows) body.insertRow().append(...row.map((pieces) => element("td", pieces)));
  return table;
}

/**
 * Replace what an element holds by a report.
 * @param {HTMLElement} box
 * @param {string} text  Markdown as our reports use it.
 */
export function fill(box, text) {
  const made = [];
  let list = null;
  for (const block of parse(text)) {
    if (block.kind !== "item") list = null;
    if (block.kind === "item") {
      if (!list) made.push((list = document.createElement("ul")));
      list.append(element("li", block.pieces));
    } else if (block.kind === "table") made.push(tableOf(block));
    else made.push(element(block.kind === "heading" ? `h${Math.min(block.level + 2, 6)}` : "p", block.pieces));
  }
  box.replaceChildren(...made);
  box.scrollTop = 0;
}
