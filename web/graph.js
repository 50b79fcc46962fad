/** Reading the graph: what feeds an input, and where a model begins; and what hangs on a node of it. */

/** The first of some inputs or outputs that has a type; -1 for none. */
export const slot = (slots, type) => slots?.findIndex((s) => s.type === type) ?? -1;

/** A node's widget by its name. */
export const widget = (node, name) => node.widgets?.find((w) => w.name === name);

/** Call `then` after a function that an object may have. */
export function after(object, name, then) {
  const before = object[name];
  object[name] = function (...given) {
    const answer = before?.apply(this, given);
    then();
    return answer;
  };
}

/** Make a node as high as its widgets need: higher where it is too low, and lower only if it is to fit them. */
export function makeRoom(node, { fit = false } = {}) {
  const [width, height] = node.size;
  const least = node.computeSize()[1];
  node.setSize([width, fit ? least : Math.max(height, least)]);
  node.setDirtyCanvas?.(true, true);
}

/** The output that feeds an input, past reroutes: {node, slot}, or null. */
export function feeder(node, input) {
  const link = node.inputs[input]?.link != null && node.graph.links.get(node.inputs[input].link);
  const from = link && node.graph.getNodeById(link.origin_id);
  if (!from) return null; // nothing, or the border of a subgraph
  return from.type === "Reroute" ? feeder(from, 0) : { node: from, slot: link.origin_slot };
}

/** The node where a MODEL or CLIP begins: up through nodes that take one in and give one out. */
export function origin(node, type) {
  for (let steps = 0; steps < 1000; steps++) {
    const input = slot(node.inputs, type);
    const from = input < 0 ? null : feeder(node, input);
    if (!from) return input < 0 ? { node, slot: slot(node.outputs, type) } : null;
    node = from.node;
  }
  return null;
}
