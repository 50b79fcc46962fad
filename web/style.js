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
.lora-graft-report tr.lora-graft-picked td { background: color-mix(in srgb, #3b82f6 35%, transparent); }
.lora-graft-report > img { max-width: 100%; margin-top: 8px; }
.lora-graft-map { margin: 10px 0; }
.lora-graft-choice { display: flex; gap: 6px; margin-bottom: 6px; }
.lora-graft-choice button { padding: 2px 8px; border-radius: 4px; border: 1px solid var(--border-color, #888);
  font-size: 11px; color: inherit; background: none; cursor: pointer; }
.lora-graft-choice button[aria-pressed="true"] { background: var(--comfy-menu-bg, #333); font-weight: 600; }
.lora-graft-scroll { overflow-x: auto; }
.lora-graft-report .lora-graft-grid :is(th, td) { padding: 0; border: 0; background: none; font-size: 10px;
  position: static; }
.lora-graft-report .lora-graft-grid th { font-weight: 400; padding-inline-end: 6px; }
.lora-graft-report .lora-graft-grid td { min-width: 28px; height: 20px; text-align: center; }
.lora-graft-report .lora-graft-grid td[data-cell] { cursor: pointer; background: #dcdcdc;
  border: 1px solid var(--comfy-input-bg, #222); }
.lora-graft-grid td[data-cell]:is(:hover, :focus) { outline: 2px solid var(--input-text, #ddd); outline-offset: -2px; }
.lora-graft-report .lora-graft-grid th.lora-graft-column { writing-mode: vertical-rl; padding: 4px 0 0;
  vertical-align: top; text-align: start; }
.lora-graft-hatched { background-image: repeating-linear-gradient(45deg, #fffa 0 2px, transparent 2px 6px) !important; }
.lora-graft-legend { display: flex; gap: 6px; align-items: center; font-size: 10px; }
.lora-graft-legend span { width: 12px; height: 12px; background-color: #777; }
.lora-graft-legend span.lora-graft-grey { background-color: #dcdcdc; }
.lora-graft-readout { min-height: 3em; margin-top: 4px; overflow-wrap: anywhere; }
.lora-graft-strengths { box-sizing: border-box; width: 100%; padding: 2px 8px; font: 12px/1.3 sans-serif;
  color: var(--input-text, #ddd); border-radius: 4px; background: var(--comfy-input-bg, #222); }
.lora-graft-strengths > * { display: flex; gap: 6px; align-items: center; height: 24px; margin: 0; }
.lora-graft-strengths span { flex: 2 1 60px; min-width: 0; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.lora-graft-strengths .lora-graft-second span { padding-inline-start: 12px; opacity: 0.8; }
.lora-graft-strengths input[type="range"] { flex: 3 1 60px; min-width: 0; accent-color: #3b82f6; }
.lora-graft-strengths input:is([type="number"], [type="text"]) { width: 60px; padding: 1px 4px; color: inherit;
  background: var(--comfy-menu-bg, #333); border: 1px solid var(--border-color, #888); border-radius: 4px; }
.lora-graft-strengths input[type="text"] { flex: 1; border-color: #f59e0b; }
.lora-graft-strengths button { padding: 0 5px; font-size: 10px; color: inherit; background: none; cursor: pointer;
  border: 1px solid var(--border-color, #888); border-radius: 4px; }
.lora-graft-strengths button[aria-pressed="true"] { background: #3b82f6; color: #fff; }
.lora-graft-strengths .lora-graft-second::after { content: ""; width: 30px; }
.lora-graft-about { box-sizing: border-box; width: 100%; padding: 0 8px; font: 11px/18px sans-serif;
  color: var(--input-text, #ddd); user-select: text; }
.lora-graft-about p { margin: 0; height: 18px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.lora-graft-about .lora-graft-wrong { height: 36px; white-space: normal; color: #f59e0b; }
.lora-graft-panel { display: flex; flex-direction: column; gap: 6px; height: 100%; padding: 8px;
  box-sizing: border-box; }
.lora-graft-panel select { padding: 4px; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);
  border: 1px solid var(--border-color, #888); border-radius: 4px; }
.lora-graft-panel .lora-graft-report { flex: 1; height: auto; }
`;

/** Put the rules into the page, once. */
export function dress() {
  if (document.getElementById("lora-graft-style")) return;
  const style = document.createElement("style");
  style.id = "lora-graft-style";
  style.textContent = STYLE;
  document.head.append(style);
}
