/** A report's heat map as a grid: point at a cell to read its modules, click it for their rows. */

import { words } from "./words.js";

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const LISTED = 4; // modules of a cell that are named
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/**
 * Background and text colour of a value in [0, 1], as matplotlib's viridis has it.
 * @param {number} value
 */
function shade(value) {
  const at = Math.min(Math.max(value, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const part = Math.round((at - low) * 100);
  const background = `color-mix(in srgb, ${VIRIDIS[low + 1]} ${part}%, ${VIRIDIS[low]})`;
  return { background, color: value > 0.55 ? "#1a1a1a" : "#fff" };
}

function made(tag, name, text = "") {
  const element = document.createElement(tag);
  if (name) element.className = `lora-graft-${name}`;
  element.textContent = text;
  return element;
}

/**
 * The choice between what the map can show; nothing where there is but one.
 * @param {import("./reports.js").HeatMap} map
 * @param {(panel: number) => void} show
 */
function choice(map, show) {
  const bar = made("div", "choice");
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", words().show);
  const buttons = map.panels.map(({ title }, number) => {
    const button = made("button", "", words()[title] ?? title);
    button.type = "button";
    button.addEventListener("click", () => choose(number));
    return button;
  });
  const choose = (number) => {
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === number)));
    show(number);
  };
  bar.append(...buttons);
  choose(0);
  return bar;
}

/**
 * @param {import("./reports.js").HeatMap} map
 * @param {(modules: number[]) => string[]} describe  A line for each of some modules, by their place in the report.
 * @param {(modules: number[]) => void} pick  Called with the modules of the cell that was clicked.
 * @returns {HTMLElement}
 */
export function heatMap(map, describe, pick) {
  const box = made("div", "map");
  const table = made("table", "grid");
  const readout = made("div", "readout", words().hint);
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", words().map);

  const modules = map.rows.map(() => map.columns.map(() => []));
  map.modules.forEach(([row, column], module) => modules[row][column].push(module));
  const leftOut = new Set(map.left_out.map(String));
  const cells = map.rows.map((name, row) => {
    const line = table.insertRow();
    const head = made("th", "", name);
    head.scope = "row";
    line.append(head);
    return map.columns.map((_, column) => {
      const cell = line.insertCell();
      if (!modules[row][column].length) return null;
      cell.tabIndex = -1;
      cell.dataset.cell = `${row},${column}`;
      cell.classList.toggle("lora-graft-hatched", leftOut.has(`${row},${column}`));
      return cell;
    });
  });
  const foot = table.createTFoot().insertRow();
  foot.append(made("td", ""), ...map.columns.map((name) => made("th", "column", name)));
  cells.flat().find(Boolean).tabIndex = 0;

  const at = (event) => event.target.closest?.("[data-cell]")?.dataset.cell.split(",").map(Number);
  const tell = (event) => {
    const place = at(event);
    if (!place) return;
    const found = modules[place[0]][place[1]];
    const lines = describe(found.slice(0, LISTED)).map((line) => made("div", "", line));
    if (found.length > LISTED) lines.push(made("div", "", words().more(found.length - LISTED)));
    readout.replaceChildren(...lines);
  };
  const go = (event) => {
    const place = at(event);
    if (place) pick(modules[place[0]][place[1]]);
  };
  table.addEventListener("pointerover", tell);
  table.addEventListener("focusin", tell);
  table.addEventListener("click", go);
  table.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") go(event);
    else if (!MOVES[event.key] || !at(event)) return;
    else {
      const [down, right] = MOVES[event.key];
      let [row, column] = at(event);
      do [row, column] = [row + down, column + right];
      while (cells[row]?.[column] === null);
      cells[row]?.[column]?.focus();
    }
    event.preventDefault();
    event.stopPropagation();
  });

  const show = (number) => {
    const top = Math.max(1, ...map.panels[number].values.flat().map((value) => value ?? 0));
    for (const [row, line] of cells.entries())
      for (const [column, cell] of line.entries()) {
        if (!cell) continue;
        const value = map.panels[number].values[row][column];
        cell.textContent = value === null ? "" : value.toFixed(2).replace(/^(-?)0\./, "$1.");
        Object.assign(cell.style, value === null ? { background: "", color: "" } : shade(value / top));
        const known = value === null ? words().grey : cell.textContent;
        cell.setAttribute("aria-label", `${map.rows[row]}, ${map.columns[column]}: ${known}`);
      }
  };
  const grey = map.panels.some(({ values }) => cells.some((line, y) => line.some((c, x) => c && values[y][x] === null)));
  const legend = made("div", "legend");
  if (grey) legend.append(made("span", "grey"), words().grey);
  if (leftOut.size) legend.append(made("span", "hatched"), words().hatched);
  const scroll = made("div", "scroll");
  scroll.append(table);
  box.append(choice(map, show), scroll, legend, readout);
  return box;
}
