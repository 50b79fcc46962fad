"""The panel of the side bar with reports, and the heat map as a grid, in both modes of the editor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.host, pytest.mark.browser]
PACK = Path(__file__).parents[2]
GRAPH = json.loads((PACK / "workflows/similarity.json").read_text(encoding="utf-8"))
BUTTON = "Read the report"
HOSTILE = "<img src=x onerror=window.broken=1>"
TABLE = f"| module | Φ left | decision |\n|---|---|---|\n| {HOSTILE} | 0.5 | {HOSTILE} |\n| second | 0.7 | copy |\n"
MAP = {
    "rows": [HOSTILE],
    "columns": [HOSTILE, "b"],
    "panels": [{"title": HOSTILE, "values": [[None, 0.7]]}, {"title": "kept energy", "values": [[0.1, 1.2]]}],
    "modules": [[0, 0], [0, 1]],
    "left_out": [[0, 0]],
}
OURS = "() => { window.ours = app.graph.nodes.find(n => n.type === 'LoraGraft_SubspaceSimilarity'); }"
SHOW = "given => window.ours.onExecuted(given)"
SAVED = "() => [window.ours, LiteGraph.createNode(window.ours.type)].map(n => n.serialize().widgets_values.length)"
PLACE = """() => { const w = window.ours.widgets.find(w => w.name === 'lora_graft_read'), [x, y] = window.ours.pos;
  const [left, top] = app.canvas.ds.convertOffsetToCanvas([x + window.ours.size[0] / 2, y + w.last_y + 10]);
  const box = app.canvas.canvas.getBoundingClientRect(); return [box.x + left, box.y + top]; }"""
WITHIN = """row => { const box = row.closest('.lora-graft-report').getBoundingClientRect();
  const {top, bottom} = row.getBoundingClientRect(); return top >= box.top && bottom <= box.bottom; }"""
TOGGLE = "() => app.extensionManager.sidebarTab.toggleSidebarTab('lora-graft')"
NODE_BOXES = (
    "() => [...document.querySelectorAll('.lora-graft-report')].filter(b => !b.closest('.lora-graft-panel')).length"
)


@pytest.fixture
def canvas(opened):
    """The similarity workflow after its run."""
    opened.load(GRAPH)
    assert opened.run()["type"] == "execution_success"
    opened.page.evaluate(OURS)
    yield opened
    assert opened.complaints() == []


def panel_of(canvas):
    """The panel, opened by the node's button."""
    page = canvas.page
    canvas.fit()
    if page.locator(".lora-graft-panel").count():
        page.evaluate(TOGGLE)  # an earlier test has left it open
        page.locator(".lora-graft-panel").wait_for(state="detached")
    if page.evaluate("() => LiteGraph.vueNodesMode"):
        page.get_by_text(BUTTON, exact=True).first.click()
    else:
        page.mouse.click(*page.evaluate(PLACE))
    panel = page.locator(".lora-graft-panel")
    panel.locator(".lora-graft-report").wait_for()
    return panel


def test_a_cell_tells_its_modules_and_leads_to_their_rows(canvas, tmp_path):
    panel = panel_of(canvas)
    assert "Subspace Similarity" in panel.locator("select").inner_text()
    grid, table = panel.locator(".lora-graft-grid"), panel.locator("table").last
    heads = [head.inner_text() for head in table.locator("th").all()]
    lines = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
    every = {line[0]: dict(zip(heads, line, strict=True)) for line in lines}
    cells, named = grid.locator("[data-cell]"), []
    for cell in cells.all():
        cell.hover()
        told = panel.locator(".lora-graft-readout > div").all_inner_texts()
        modules = [every[line.split(" · ")[0]] for line in told]
        assert all(
            f"Φ left {m['Φ left']} · Φ right {m['Φ right']}" in line for m, line in zip(modules, told, strict=True)
        )
        figures = [float(m[f"corrected {side}"]) for m in modules for side in ("left", "right")]
        assert float(cell.inner_text()) == pytest.approx(sum(figures) / len(figures), abs=0.006)
        named += [m["module"] for m in modules]
    assert sorted(named) == sorted(every) and len(named) > 5

    table.locator("th button").first.click()
    table.locator("th button").first.click()  # another order than the report's
    cells.nth(1).click()
    picked = panel.locator("tr.lora-graft-picked")
    assert picked.locator("td:first-child").all_inner_texts() == [
        line.split(" · ")[0] for line in panel.locator(".lora-graft-readout > div").all_inner_texts()
    ]
    assert picked.first.evaluate(WITHIN)
    canvas.page.screenshot(path=tmp_path / "panel.png")

    cells.first.focus()
    canvas.page.keyboard.press("ArrowRight")
    canvas.page.keyboard.press("Enter")
    assert picked.first.inner_text() != "" and cells.nth(1).evaluate("c => c === document.activeElement")
    kept, fresh = canvas.page.evaluate(SAVED)
    assert kept == fresh, "the button is no part of the workflow's file"
    assert canvas.page.evaluate(NODE_BOXES) == 1
    assert canvas.page.locator(".lora-graft-grid").count() == 2, "the box on the canvas has the grid, too"


def test_names_in_a_heat_map_never_become_html(canvas):
    panel = panel_of(canvas)
    canvas.page.evaluate(SHOW, {"text": [f"# {HOSTILE}\n\n## T\n\n{TABLE}"], "lora_graft": [{"heat_map": MAP}]})
    grid = panel.locator(".lora-graft-grid")
    assert grid.locator("[data-cell]").all_inner_texts() == ["", ".70"]
    assert panel.get_by_text("not measured").count() == panel.get_by_text("left out").count() == 1
    grid.locator("[data-cell]").first.hover()
    assert panel.locator(".lora-graft-readout").inner_text() == f"{HOSTILE} · Φ left 0.5 · {HOSTILE}"
    panel.get_by_role("button", name="kept energy").click()
    assert grid.locator("[data-cell]").all_inner_texts() == [".10", "1.20"]
    assert panel.locator("img").count() == 0 and canvas.page.evaluate("() => window.broken") is None
    canvas.page.evaluate(SHOW, {"text": ["# A merge\n\nSentences."], "images": [{"filename": "x.png"}]})
    assert grid.count() == 0 and "filename=x.png" in panel.locator("img").get_attribute("src")
    canvas.page.evaluate("() => app.graph.remove(window.ours)")
    canvas.page.evaluate(TOGGLE)
    panel.wait_for(state="detached")
    canvas.page.evaluate(TOGGLE)
    panel.get_by_text("After a run").wait_for()
