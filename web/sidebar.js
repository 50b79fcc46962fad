/** Reports in a panel of the side bar, and a button on the node that made one. */

import { app } from "../../scripts/app.js";
import { fill } from "./report.js";
import { keep, listen, reports } from "./reports.js";
import { dress } from "./style.js";
import { words } from "./words.js";

const TAB = "lora-graft";
const BUTTON = "lora_graft_read";
let chosen = null; // the node whose report the panel shows; null for the newest
let draw = () => {}; // shows the panel again while it is open

/** The picture that a node shows, where it says more than the grid. */
function picture({ map, pictures }) {
  if (map || !pictures.length) return [];
  return pictures.slice(0, 1).map(({ filename, subfolder = "", type = "temp" }) => {
    const image = document.createElement("img");
    image.src = app.api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
    image.alt = "";
    return image;
  });
}

/** @param {HTMLElement} panel */
function panelIn(panel) {
  dress();
  panel.classList.add("lora-graft-panel");
  draw = () => {
    const found = reports();
    const at = Math.max(0, found.findIndex(([node]) => node === chosen));
    if (!found.length) {
      const none = document.createElement("p");
      none.textContent = words().none;
      panel.replaceChildren(none);
      return;
    }
    const select = document.createElement("select");
    select.setAttribute("aria-label", words().which);
    found.forEach(([node], number) => select.add(new Option(node.title, number, false, number === at)));
    select.addEventListener("change", () => {
      chosen = found[select.value][0];
      draw();
    });
    const box = document.createElement("div");
    box.className = "lora-graft-report";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", words().report);
    const report = found[at][1];
    fill(box, report.text, report.map);
    box.prepend(...picture(report));
    panel.replaceChildren(select, box);
  };
  draw();
}

/** Open the panel at a node's report. */
function read(node) {
  chosen = node;
  const { sidebarTab } = app.extensionManager;
  if (sidebarTab.activeSidebarTabId !== TAB) sidebarTab.toggleSidebarTab(TAB);
  draw();
}

/** A button under the node's inputs, that is no part of the workflow's file. */
function button(node) {
  if (node.widgets?.some(({ name }) => name === BUTTON)) return;
  const size = [...node.size];
  const made = node.addWidget("button", BUTTON, null, () => read(node), { serialize: false });
  made.label = words().open;
  made.serialize = false;
  node.setSize(size.map((length, axis) => Math.max(length, node.computeSize()[axis])));
}

app.registerExtension({
  name: "LoraGraft.Panel",
  setup() {
    app.extensionManager.registerSidebarTab({
      id: TAB,
      icon: "pi pi-table",
      title: "LoRA Graft",
      tooltip: words().panel,
      type: "custom",
      render: panelIn,
      destroy: () => (draw = () => {}),
    });
    listen((node) => {
      chosen = node;
      draw();
    });
  },
  beforeRegisterNodeDef(type, definition) {
    if (!definition.name.startsWith("LoraGraft_")) return;
    const before = type.prototype.onExecuted;
    type.prototype.onExecuted = function (output) {
      before?.call(this, output);
      if (keep(this, output)) button(this);
    };
  },
});
