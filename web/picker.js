/** Load LoRA tells what the chosen file is, and warns when it is not for the base that is connected after it. */

import { app } from "../../scripts/app.js";
import { after, feeder, makeRoom, widget } from "./graph.js";
import { dress } from "./style.js";
import { words } from "./words.js";

const NODE = "LoraGraft_LoadLoRA";
const BOX = "lora_graft_about";
const [LINE, MARGIN] = [18, 3]; // pixels
const FILES = { ckpt_name: "checkpoints", unet_name: "diffusion_models" }; // input of a loader → folder
const BASES = { lora: ["source", "model"], original: ["source"] }; // input for a LoRA → inputs for its base
const MOVED = { LoraGraft_MatchStrength: ["target"] }; // where "lora" is one that is moved already
const answers = new Map(); // query → promise of the server's answer
const boxes = new Set();

/** What the server says of a file; null where it cannot. Kept for as long as nothing is loaded anew. */
function ask(query) {
  const text = String(new URLSearchParams(query));
  if (!answers.has(text)) {
    const answer = app.api.fetchApi(`/lora_graft/lora?${text}`).then((found) => found.json());
    answers.set(text, answer.catch(() => null));
  }
  return answers.get(text);
}

/** The file where a MODEL begins, as {folder, base}; null past nodes that mix several models. */
function fileOf(node) {
  for (let steps = 0; node && steps < 1000; steps++) {
    const inputs = node.inputs.flatMap(({ type }, at) => (type === "MODEL" ? [at] : []));
    if (inputs.length > 1) return null;
    if (!inputs.length) {
      const [name, folder] = Object.entries(FILES).find(([input]) => widget(node, input)) ?? [];
      return folder ? { folder, base: String(widget(node, name).value) } : null;
    }
    node = feeder(node, inputs[0])?.node;
  }
  return null;
}

/** All inputs that an output feeds, past reroutes, as [node, input]. */
const fed = (node, output) =>
  [...(node.outputs[output]?.links ?? [])].flatMap((id) => {
    const link = node.graph.links.get(id);
    const to = link && node.graph.getNodeById(link.target_id);
    if (!to) return [];
    return to.type === "Reroute" ? fed(to, 0) : [[to, to.inputs[link.target_slot]]];
  });

/** The files of the bases that the LoRA is used with. */
function basesOf(node) {
  return fed(node, 0).flatMap(([to, { name }]) => {
    const role = name === "lora" && MOVED[to.type] ? MOVED[to.type] : BASES[name.startsWith("loras.") ? "lora" : name];
    const at = to.inputs.findIndex((input) => input.type === "MODEL" && role?.includes(input.name));
    const from = at < 0 ? null : feeder(to, at);
    return (from && fileOf(from.node)) ?? [];
  });
}

function line(text, name = "") {
  const made = document.createElement("p");
  made.textContent = made.title = text;
  made.className = name;
  return made;
}

/** The lines under a node's choice of a file. */
class About {
  constructor(node) {
    this.node = node;
    this.element = document.createElement("div");
    this.element.className = "lora-graft-about";
    this.element.setAttribute("role", "status");
    this.element.setAttribute("aria-label", words().about);
    this.height = 2 * LINE + 2 * MARGIN;
    this.wanted = "";
  }

  async update() {
    const name = String(widget(this.node, "lora_name")?.value ?? "");
    const bases = basesOf(this.node);
    const wanted = JSON.stringify([name, bases]);
    if (wanted === this.wanted) return;
    this.wanted = wanted;
    const found = name ? await ask({ name }) : null;
    const fitting = found && !found.error ? await Promise.all(bases.map((base) => ask({ name, ...base }))) : [];
    if (this.wanted === wanted) this.draw(found, bases, fitting);
  }

  draw(found, bases, fitting) {
    const lines = [];
    if (found?.error) lines.push(line(found.error, "lora-graft-wrong"));
    else if (found) {
      const family = found.architecture === "unknown" ? words().unknown : found.architecture;
      const ranks = found.ranks ? [words().rank(...found.ranks)] : [];
      lines.push(line([family, ...ranks, `${(found.size / 2 ** 20).toFixed(1)} MB`].join(" · ")));
      lines.push(line(found.triggers.length ? words().triggers(found.triggers.join(", ")) : words().silent));
    }
    const at = fitting.findIndex((answer) => answer?.fits === false);
    if (at >= 0) {
      const base = bases[at].base.split(/[\\/]/).pop();
      lines.push(line(`⚠ ${words().wrong(base, fitting[at].base)}`, "lora-graft-wrong"));
    }
    this.element.replaceChildren(...lines);
    const rows = lines.reduce((sum, { className }) => sum + (className ? 2 : 1), 0);
    this.height = Math.max(rows, 2) * LINE + 2 * MARGIN;
    makeRoom(this.node);
  }
}

app.registerExtension({
  name: "LoraGraft.Picker",
  setup() {
    app.api.addEventListener("graphChanged", () => {
      for (const about of boxes) if (about.node.graph) void about.update();
    });
  },
  refreshComboInNodes() {
    answers.clear();
    for (const about of boxes) about.wanted = "";
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    dress();
    const about = new About(node);
    const box = node.addDOMWidget(BOX, BOX, about.element, { serialize: false, margin: MARGIN, hideOnZoom: false });
    box.serialize = false;
    box.computeLayoutSize = undefined; // as high as its lines: what has a layout size takes the room that is left
    box.computeSize = (width) => [width ?? 0, about.height];
    const later = () => requestAnimationFrame(() => node.graph && void about.update());
    after(widget(node, "lora_name"), "callback", later);
    after(node, "onConnectionsChange", later);
    after(node, "onConfigure", later);
    boxes.add(about);
    after(node, "onRemoved", () => boxes.delete(about));
    makeRoom(node);
    later();
  },
});
