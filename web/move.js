/** Right-click on a core LoRA loader: *Move to another base…* puts the nodes of a transfer in place, wired. */

import { app } from "../../scripts/app.js";
import { feeder, origin, slot, widget } from "./graph.js";

const LOADERS = ["LoraLoader", "LoraLoaderModelOnly"];
const SOURCE = "lora_graft_source"; // property of a new base's loader: the id of the old base's
const MARGIN = 100; // the title bar, and what a node grows when the page draws it
const WORDS = {
  en: { item: "Move to another base…", old: "Old base", fresh: "New base: choose its file", report: "What survived" },
  zh: { item: "移到另一个基础模型…", old: "旧基础模型", fresh: "新基础模型：请选择文件", report: "保留了什么" },
};

const words = () => WORDS[app.extensionManager.setting.get("Comfy.Locale")] ?? WORDS.en;

/** Put a new node where nothing lies, at a point or below it. */
function add(graph, node, [x, y]) {
  const lies = ({ pos, size }) =>
    x < pos[0] + size[0] + MARGIN / 4 &&
    pos[0] < x + node.size[0] + MARGIN / 4 &&
    y < pos[1] + size[1] + MARGIN &&
    pos[1] < y + node.size[1] + MARGIN;
  for (let other; (other = graph.nodes.find(lies)); ) y = other.pos[1] + other.size[1] + MARGIN;
  graph.add(node);
  node.pos = [x, y];
  return node;
}

function set(node, name, value) {
  const found = widget(node, name);
  if (!found) return;
  found.value = value;
  found.callback?.(value);
}

/** All that an output feeds, as [node, input]. */
const fed = (node, output) =>
  [...(node.outputs[output].links ?? [])].map((id) => {
    const link = node.graph.links.get(id);
    return [node.graph.getNodeById(link.target_id), link.target_slot];
  });

/** Let another output feed what one output feeds. */
function hand(from, output, to, its) {
  if (its < 0) return;
  for (const [node, input] of fed(from, output)) to.connect(its, node, input);
}

/** The new base's loader: the one that an earlier move made, or a new one that takes the old one's place. */
function loaders(graph, base) {
  const known = graph.getNodeById(base.properties[SOURCE]);
  if (known?.type === base.type) return [known, base];
  const fresh = LiteGraph.createNode(base.type);
  for (const { name, type, value } of base.widgets ?? []) if (type !== "button") set(fresh, name, value);
  fresh.mode = base.mode;
  add(graph, fresh, [...base.pos]);
  fresh.properties[SOURCE] = base.id;
  fresh.title = words().fresh;
  base.title = words().old;
  base.outputs.forEach((_, output) => hand(base, output, fresh, output));
  const choice = fresh.widgets?.find((w) => w.type === "combo" && Array.isArray(w.options?.values));
  const others = choice?.options.values.filter((value) => value !== choice.value) ?? [];
  if (others.length === 1) set(fresh, choice.name, others[0]);
  return [base, fresh];
}

/** Replace a core loader by Load LoRA, LoRA-X Transfer and Apply LoRA between the old base and a new one. */
export function move(node) {
  const { graph } = node;
  const base = origin(node, "MODEL")?.node;
  if (!base) return;
  graph.beforeChange();
  try {
    const clip = slot(node.inputs, "CLIP") < 0 ? null : origin(node, "CLIP");
    const [source, target] = loaders(graph, base);
    const [x, y] = node.pos;
    const make = (type, at, title) => {
      const made = LiteGraph.createNode(type);
      if (title) made.title = title;
      made.mode = node.mode;
      return add(graph, made, at);
    };
    const strengths = ["model", "clip"].map((part) => widget(node, `strength_${part}`)?.value ?? 1);
    const inputs = ["MODEL", "CLIP"].map((type) => [type, feeder(node, slot(node.inputs, type))]);
    const outputs = ["MODEL", "CLIP"].map((type) => [type, slot(node.outputs, type)]);

    node.pos = [x, y - 1e6]; // out of the way: Apply LoRA takes its place
    const apply = make("LoraGraft_ApplyLoRA", [x, y]);
    const load = make("LoraGraft_LoadLoRA", [x, apply.pos[1] + apply.size[1]]);
    const transfer = make("LoraGraft_Transfer", [x, load.pos[1] + load.size[1]]);
    const report = make("PreviewAny", [x + transfer.size[0] + MARGIN, transfer.pos[1]], words().report);

    set(load, "lora_name", widget(node, "lora_name")?.value);
    set(apply, "strength_model", strengths[0]);
    set(apply, "strength_clip", strengths[1]);
    const wire = (from, output, to, input) => from.connect(output, to, to.findInputSlot(input));
    wire(load, 0, transfer, "lora");
    wire(source, slot(source.outputs, "MODEL"), transfer, "source");
    wire(target, slot(target.outputs, "MODEL"), transfer, "target");
    if (clip) {
      const ends = clip.node === base ? [source, target] : [clip.node, clip.node];
      wire(ends[0], clip.slot, transfer, "source_clip");
      wire(ends[1], clip.slot, transfer, "target_clip");
    }
    wire(transfer, transfer.findOutputSlot("report"), report, "source");
    wire(transfer, transfer.findOutputSlot("lora"), apply, "lora");
    for (const [type, from] of inputs) {
      if (from) from.node.connect(from.slot, apply, slot(apply.inputs, type));
    }
    for (const [type, output] of outputs) {
      if (output >= 0) hand(node, output, apply, slot(apply.outputs, type));
    }
    graph.remove(node);
    app.canvas.selectNode?.(target);
  } finally {
    graph.afterChange();
    const tracker = app.extensionManager.workflow.activeWorkflow?.changeTracker;
    (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker); // a step that can be undone
    app.canvas.setDirty(true, true);
  }
}

app.registerExtension({
  name: "LoraGraft.Move",
  getNodeMenuItems(node) {
    if (!LOADERS.includes(node.comfyClass ?? node.type) || !origin(node, "MODEL")) return [];
    return [{ content: words().item, callback: () => move(node) }];
  },
});
