/** Reports of our nodes in the editor's *Preview as Text*, with their tables as tables. */

import { app } from "../../scripts/app.js";
import { isReport } from "./markdown.js";
import { fill } from "./report.js";
import { listen, mapOf } from "./reports.js";
import { dress } from "./style.js";
import { words } from "./words.js";

const NAME = "lora_graft_report";
const shown = new Map(); // node → the report in its box
/**
 * Whether the node's text comes from a node of ours, straight or through reroutes.
 * @param {object} node
 * @returns {boolean}
 */
function isOurs(node) {
  const seen = new Set();
  for (let at = node.getInputNode?.(0); at && !seen.has(at); at = at.getInputNode?.(0)) {
    if (String(at.type).startsWith("LoraGraft_")) return true;
    if (at.type !== "Reroute") return false;
    seen.add(at);
  }
  return false;
}

/**
 * The node's box for reports, made when it is first needed.
 * @param {object} node
 * @returns {object}
 */
function boxOf(node) {
  const there = node.widgets?.find((widget) => widget.name === NAME);
  if (there) return there;
  dress();
  const box = document.createElement("div");
  box.className = "lora-graft-report";
  box.tabIndex = 0;
  box.dataset.captureWheel = "true";
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", words().report);
  box.addEventListener("wheel", (event) => !event.ctrlKey && event.stopPropagation(), { passive: true });
  const widget = node.addDOMWidget(NAME, NAME, box, { serialize: false, hideOnZoom: false, getMinHeight: () => 120 });
  widget.serialize = false;
  return widget;
}

/**
 * Show the report in place of the editor's own text, or that text again when there is no report.
 * @param {object} node  A *Preview as Text*.
 * @param {string} text
 */
function show(node, text) {
  const report = isOurs(node) && isReport(text);
  const size = [...node.size];
  if (report) {
    for (const widget of node.widgets) {
      if (widget.name === NAME || widget.loraGraftHid) continue;
      widget.loraGraftHid = { hidden: widget.hidden, option: widget.options?.hidden };
      widget.hidden = true;
      if (widget.options) widget.options.hidden = true;
    }
    fill(boxOf(node).element, text, mapOf(text));
    shown.set(node, text);
  } else {
    shown.delete(node);
    const at = node.widgets.findIndex((widget) => widget.name === NAME);
    if (at < 0) return;
    node.removeWidget(node.widgets[at]);
    for (const widget of node.widgets.filter((hid) => hid.loraGraftHid)) {
      widget.hidden = widget.loraGraftHid.hidden;
      if (widget.options) widget.options.hidden = widget.loraGraftHid.option;
      delete widget.loraGraftHid;
    }
  }
  node.setSize(size);
  node.setDirtyCanvas?.(true, true);
}

/** The heat map of a report may come after its text, when the server repeats what it has kept. */
function complete(_, report) {
  for (const [node, text] of shown) {
    if (!node.graph) shown.delete(node);
    else if (report.map && report.text === text) fill(boxOf(node).element, text, report.map);
  }
}

app.registerExtension({
  name: "LoraGraft.Report",
  setup: () => void listen(complete),
  beforeRegisterNodeDef(type, definition) {
    if (definition.name !== "PreviewAny") return;
    const before = type.prototype.onExecuted;
    type.prototype.onExecuted = function (output) {
      before?.call(this, output);
      const text = output?.text;
      show(this, Array.isArray(text) ? text.join("") : String(text ?? ""));
    };
  },
});
