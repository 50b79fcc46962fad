/**
 * Inputs that mean something only with certain values of others are shown only with them.
 *
 * Which, the nodes say themselves: `lora_graft_with` in an input's definition names other inputs and the values it goes
 * with, or null for any that is not 0 or off. Hidden inputs keep their values, in files and for the API.
 */

import { app } from "../../scripts/app.js";
import { after, makeRoom, widget as widgetOf } from "./graph.js";

/** @typedef {Record<string, (string | number)[] | null>} Rule */
/** @type {Map<string, Record<string, Rule>>} node id → input → rule */
const rules = new Map();

const linked = (node, name) => node.inputs?.some(({ widget, link }) => widget?.name === name && link != null);

/** Whether an input means something now; one that is fed by a link, or depends on such, always may. */
function applies(node, name, rule) {
  if (linked(node, name)) return true;
  return Object.entries(rule).every(([other, values]) => {
    const widget = widgetOf(node, other);
    return !widget || linked(node, other) || (values ? values.includes(widget.value) : Boolean(widget.value));
  });
}

function show(widget, shown) {
  widget.hidden = !shown;
  if (widget.options) widget.options.hidden = !shown;
  for (const other of widget.linkedWidgets ?? []) show(other, shown);
}

/** Show what applies. The node keeps its size unless it is too small, or just made. */
function update(node, { fresh = false } = {}) {
  let changed = false;
  for (const [name, rule] of Object.entries(rules.get(node.comfyClass))) {
    const widget = widgetOf(node, name);
    const shown = applies(node, name, rule);
    if (!widget || !widget.hidden === shown) continue;
    show(widget, shown);
    changed = true;
  }
  if (changed) makeRoom(node, { fit: fresh });
}

app.registerExtension({
  name: "LoraGraft.Fields",
  beforeRegisterNodeDef(_, { name, input }) {
    if (!name.startsWith("LoraGraft_")) return;
    const inputs = Object.entries({ ...input?.required, ...input?.optional });
    const found = inputs.filter(([, spec]) => spec[1]?.lora_graft_with);
    if (found.length) rules.set(name, Object.fromEntries(found.map(([key, spec]) => [key, spec[1].lora_graft_with])));
  },
  nodeCreated(node) {
    const own = rules.get(node.comfyClass);
    if (!own) return;
    const deciding = new Set(Object.values(own).flatMap(Object.keys));
    for (const widget of node.widgets) if (deciding.has(widget.name)) after(widget, "callback", () => update(node));
    after(node, "onConfigure", () => update(node));
    after(node, "onConnectionsChange", () => update(node));
    update(node, { fresh: true });
  },
});
