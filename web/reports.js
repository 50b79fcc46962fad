/** The reports of the last run, by the node that made them. */

import { isReport } from "./markdown.js";

/**
 * @typedef {{rows: string[], columns: string[], panels: {title: string, values: (number | null)[][]}[],
 *   modules: [number, number][], left_out: [number, number][]}} HeatMap  What `plots/cells.py` writes.
 * @typedef {{text: string, map: HeatMap | null, pictures: object[]}} Report
 */

/** @type {Map<object, Report>} */
const kept = new Map();
const listeners = new Set();

/**
 * Remember what a node of ours has to show, if it is a report.
 * @param {object} node
 * @param {object} output  The node's `ui` output.
 * @returns {boolean}
 */
export function keep(node, output) {
  const text = [output?.text ?? []].flat().join("");
  if (!isReport(text)) return false;
  kept.delete(node); // the newest is the last
  const report = { text, map: output.lora_graft?.[0]?.heat_map ?? null, pictures: output.images ?? [] };
  kept.set(node, report);
  for (const listener of listeners) listener(node, report);
  return true;
}

/**
 * The reports of nodes that are still on a canvas, newest first.
 * @returns {[object, Report][]}
 */
export function reports() {
  for (const node of kept.keys()) if (node.graph?.getNodeById(node.id) !== node) kept.delete(node);
  return [...kept].reverse();
}

/**
 * The heat map that belongs to a report's text, wherever the text is shown.
 * @param {string} text
 * @returns {HeatMap | null}
 */
export const mapOf = (text) => reports().find(([, report]) => report.text === text)?.[1].map ?? null;

/** Call a function with each node whose report is new, and the report. */
export const listen = (listener) => listeners.add(listener);
