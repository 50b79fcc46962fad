/** A slider for each connected LoRA, in place of the text with their strengths, which stays the node's value. */

import { app } from "../../scripts/app.js";
import { after, makeRoom } from "./graph.js";
import { follow, spread, write } from "./strengths.js";
import { dress } from "./style.js";
import { words } from "./words.js";

const INPUT = "strengths";
const [ROW, MARGIN] = [24, 3]; // pixels
const lists = new Set();

const made = (tag, more = {}) => Object.assign(document.createElement(tag), more);
const linkOf = (node, { link }) => node.graph?.links?.get(link);

/** What a LoRA is called: its file, or the node it comes from. */
function nameOf(node, input) {
  const from = node.graph.getNodeById(linkOf(node, input)?.origin_id);
  const file = from?.widgets?.find(({ name }) => name === "lora_name")?.value;
  return file ? String(file).split(/[\\/]/).pop().replace(/\.[^.]+$/, "") : (from?.title ?? input.label ?? input.name);
}

/** The sliders of one node. */
class Sliders {
  constructor(node, text) {
    this.node = node;
    this.text = text;
    this.known = []; // links of the LoRAs that the text is about
    this.element = made("div", { className: "lora-graft-strengths" });
    this.rows = 1;
    lists.add(this);
  }

  get inputs() {
    return this.node.inputs.filter(({ name, link }) => name.startsWith("loras.") && link != null);
  }

  get height() {
    return this.rows * ROW + 4 + 2 * MARGIN;
  }

  /** LoRAs came or went. */
  sync() {
    const links = this.inputs.map(({ link }) => link);
    if (!app.configuringGraph && String(links) !== String(this.known)) this.text = follow(this.text, this.known, links);
    this.known = links;
    this.draw();
  }

  set(strengths) {
    this.text = write(strengths);
    app.canvas?.setDirty(true, true);
  }

  draw() {
    const given = this.node.inputs.find(({ widget }) => widget?.name === INPUT);
    const found = spread(this.text, this.inputs.length);
    let rows;
    if (given?.link != null) rows = [made("p", { textContent: words().linked })];
    else if (!found) rows = [this.field()];
    else if (!found.length) rows = [made("p", { textContent: words().connect })];
    else rows = found.flatMap((_, at) => this.row(found, at));
    this.element.replaceChildren(...rows);
    this.fit(rows.length);
  }

  /** Room for so many rows. */
  fit(rows) {
    this.rows = rows;
    makeRoom(this.node);
  }

  /** The text itself, where it is no list of as many strengths as there are LoRAs. */
  field() {
    const row = made("label", { textContent: words().unfit });
    const field = made("input", { type: "text", value: this.text });
    field.addEventListener("change", () => {
      this.text = field.value;
      this.draw();
    });
    row.append(field);
    return row;
  }

  /** One LoRA: its strength, and on a line of its own that on the text encoder, where it has one. */
  row(strengths, at) {
    const own = strengths[at];
    const apart = own.model !== own.clip;
    const name = nameOf(this.node, this.inputs[at]);
    const toggle = made("button", { type: "button", textContent: "clip", title: words().apart });
    toggle.setAttribute("aria-label", `${name}: ${words().apart}`);
    toggle.setAttribute("aria-pressed", String(apart));
    const second = this.slider(strengths, own, "clip", `${name}, ${words().encoder}`, words().encoder);
    second.classList.add("lora-graft-second");
    toggle.addEventListener("click", () => {
      const opened = second.isConnected;
      if (opened) {
        second.remove();
        own.clip = own.model;
        this.set(strengths);
      } else first.after(second);
      toggle.setAttribute("aria-pressed", String(!opened));
      this.fit(this.rows + (opened ? -1 : 1));
    });
    const joined = () => !second.isConnected;
    const first = this.slider(strengths, own, "model", name, name, joined);
    first.append(toggle);
    return apart ? [first, second] : [first];
  }

  slider(strengths, own, part, label, shown, joined = () => false) {
    const row = made("div");
    const caption = made("span", { textContent: shown, title: label });
    const range = made("input", { type: "range", min: -2, max: 2, step: 0.05, value: own[part] });
    const number = made("input", { type: "number", step: 0.05, value: own[part] });
    range.setAttribute("aria-label", label);
    number.setAttribute("aria-label", `${label}: ${words().strength}`);
    const take = (from, to) => () => {
      if (!Number.isFinite(from.valueAsNumber)) return;
      own[part] = from.valueAsNumber;
      if (joined()) own.clip = own.model;
      to.value = from.value;
      this.set(strengths);
    };
    range.addEventListener("input", take(range, number));
    number.addEventListener("input", take(number, range));
    row.append(caption, range, number);
    return row;
  }
}

/** Put sliders in the place of a node's text of strengths. */
function dressNode(node) {
  const at = node.widgets?.findIndex(({ name }) => name === INPUT) ?? -1;
  if (at < 0 || !node.comfyDynamic?.autogrow?.loras) return;
  dress();
  const [text] = node.widgets.splice(at, 1);
  const sliders = new Sliders(node, String(text.value));
  const widget = node.addDOMWidget(INPUT, INPUT, sliders.element, {
    getValue: () => sliders.text,
    setValue: (value) => {
      sliders.text = String(value);
      if (node.graph) sliders.draw();
    },
    margin: MARGIN,
    hideOnZoom: false,
  });
  // As high as its rows and no higher: what has a layout size takes the room that is left.
  widget.computeLayoutSize = undefined;
  widget.computeSize = (width) => [width ?? 0, sliders.height];
  widget.tooltip = text.tooltip;
  node.widgets.splice(at, 0, ...node.widgets.splice(node.widgets.indexOf(widget), 1));
  const later = () => requestAnimationFrame(() => node.graph && sliders.sync());
  // The editor itself closes gaps between the LoRAs in the next frame.
  after(node, "onConnectionsChange", () => requestAnimationFrame(later));
  after(node, "onRemoved", () => lists.delete(sliders));
  sliders.element.addEventListener("pointerdown", (event) => event.stopPropagation());
  later();
}

/** Names of files may have changed; a slider that is being moved stays. */
function rename() {
  for (const list of lists)
    if (list.node.graph && !list.element.contains(document.activeElement)) list.draw();
}

app.registerExtension({
  name: "LoraGraft.Strengths",
  setup: () => void app.api.addEventListener("graphChanged", rename),
  nodeCreated(node) {
    if (String(node.comfyClass).startsWith("LoraGraft_")) dressNode(node);
  },
});
