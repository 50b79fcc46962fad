/** How a report looks, in the colours of the editor's theme. */

const STYLE = `
.lora-graft-report { box-sizing: border-box; contain: size; width: 100%; height: 100%; min-height: 120px;
  overflow: auto;
  padding: 0 10px 8px; font: 12px/1.45 sans-serif; user-select: text; text-align: start; border-radius: 4px;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); }
.lora-graft-report:focus-visible, .lora-graft-report button:focus-visible { outline: 2px solid #3b82f6; }
.lora-graft-report :is(h3, h4, h5, h6) { margin: 10px 0 4px; font-size: 13px; font-weight: 600; }
.lora-graft-report h3 { font-size: 15px; }
.lora-graft-report :is(p, ul) { margin: 4px 0; overflow-wrap: anywhere; }
.lora-graft-report ul { padding-inline-start: 18px; list-style: disc; }
.lora-graft-report table { border-collapse: separate; border-spacing: 0; }
.lora-graft-report :is(th, td) { padding: 2px 8px; white-space: nowrap; text-align: start;
  border-bottom: 1px solid var(--border-color, #888); }
.lora-graft-report th { position: sticky; top: 0; background: var(--comfy-menu-bg, #333); }
.lora-graft-report th button { all: unset; cursor: pointer; font-weight: 600; }
.lora-graft-report th[aria-sort="ascending"] button::after { content: " ▲"; }
.lora-graft-report th[aria-sort="descending"] button::after { content: " ▼"; }
`;

/** Put the rules into the page, once. */
export function dress() {
  if (document.getElementById("lora-graft-style")) return;
  const style = document.createElement("style");
  style.id = "lora-graft-style";
  style.textContent = STYLE;
  document.head.append(style);
}
