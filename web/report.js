/** A report as elements of the page. Its text never becomes HTML: every character goes in as text. */

import { heatMap } from "./heatmap.js";
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

const FIGURES = ["Φ left", "Φ right", "kept energy"]; // columns that a cell of the heat map tells

/** Bring rows of a table into view, marked; the box alone scrolls, not what it stands in. */
function pick(box, table, rows) {
  for (const row of table.querySelectorAll(".lora-graft-picked")) row.classList.remove("lora-graft-picked");
  for (const row of rows) row.classList.add("lora-graft-picked");
  const [outer, inner] = [box.getBoundingClientRect(), rows[0].getBoundingClientRect()];
  const zoom = outer.height / box.offsetHeight || 1;
  box.scrollTop += (inner.top - outer.top) / zoom - box.clientHeight / 3;
}

/** The heat map of the modules in a table that has one row for each. */
function mapOf(map, block, table, box) {
  const rows = [...table.tBodies[0].rows];
  const names = block.head.map(said);
  const describe = (module) => {
    const cell = (name) => said(block.rows[module][names.indexOf(name)] ?? []);
    const figures = FIGURES.filter((name) => cell(name) && cell(name) !== "–").map((name) => `${name} ${cell(name)}`);
    return [cell("module"), ...figures, cell("decision")].filter(Boolean).join(" · ");
  };
  return heatMap(
    map,
    (modules) => modules.map(describe),
    (modules) => pick(box, table, modules.map((module) => rows[module])),
  );
}

const said = (pieces) => pieces.map(({ text }) => text).join("");

/**
 * Replace what an element holds by a report.
 * @param {HTMLElement} box
 * @param {string} text  Markdown as our reports use it.
 * @param {import("./reports.js").HeatMap | null} map  Shown after the sentences.
 */
export function fill(box, text, map = null) {
  const made = [];
  let drawn = null;
  let list = null;
  for (const block of parse(text)) {
    if (block.kind !== "item") list = null;
    if (block.kind === "item") {
      if (!list) made.push((list = document.createElement("ul")));
      list.append(element("li", block.pieces));
    } else if (block.kind === "table") {
      const table = tableOf(block);
      made.push(table);
      if (map && block.rows.length === map.modules.length && said(block.head[0]) === "module")
        drawn = mapOf(map, block, table, box);
    } else made.push(element(block.kind === "heading" ? `h${Math.min(block.level + 2, 6)}` : "p", block.pieces));
  }
  const sections = made.findIndex(({ tagName }) => tagName === "H4");
  if (drawn) made.splice(sections < 0 ? made.length : sections, 0, drawn);
  box.replaceChildren(...made);
  box.scrollTop = 0;
}
