"""Reports in *Preview as Text*: real tables, in both modes of the editor, and never HTML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.host, pytest.mark.browser]
PACK = Path(__file__).parents[2]
GRAPH = json.loads((PACK / "workflows/similarity.json").read_text(encoding="utf-8"))
HOSTILE = "<img src=x onerror=window.broken=1>"
TEXT = f"# {HOSTILE}\n\nA \\*plain\\* `{HOSTILE}`.\n\n| name | n |\n|---|---:|\n"
TEXT += f"| {HOSTILE} | 9 |\n| b\\|c | 10 |\n| d | |\n"
WANTED = """() => { window.wanted = app.graph.nodes.find(
  n => n.widgets?.some(w => w.name === 'lora_graft_report')); }"""
SHOW = "text => window.wanted.onExecuted({text: [text]})"
SAVED = "() => [window.wanted, LiteGraph.createNode('PreviewAny')].map(n => n.serialize().widgets_values?.length ?? 0)"
COLORS = """box => { const s = getComputedStyle(box); return [s.color, s.backgroundColor]; }"""


@pytest.fixture(params=[False, True], ids=["classic", "nodes 2"])
def page(editor, request):
    """The similarity workflow after its run."""
    editor.open()
    editor.nodes_2(request.param)
    editor.load(GRAPH)
    assert editor.run()["type"] == "execution_success"
    yield editor.page
    assert editor.complaints() == []
    editor.nodes_2(False)


def box_of(page):
    box = page.locator(".lora-graft-report")
    box.wait_for()
    assert box.count() == 1, "only the report's node has one, the number's stays as it is"
    return box


def column(table, number: int) -> list[str]:
    return [cell.inner_text() for cell in table.locator(f"tbody td:nth-child({number})").all()]


def test_a_report_has_tables_that_sort(page, tmp_path):
    box = box_of(page)
    table = box.locator("table").last
    names = column(table, 1)
    assert len(names) > 5 and "|---" not in box.inner_text()
    head = table.locator("th button").first
    head.focus()
    page.keyboard.press("Enter")
    up = column(table, 1)
    page.keyboard.press("Enter")
    assert sorted(up) == sorted(names) and column(table, 1) == up[::-1]
    assert table.locator("th").first.get_attribute("aria-sort") == "descending"
    assert box.evaluate("b => b.scrollHeight > b.clientHeight && b.clientHeight > 100")
    assert page.locator("textarea:visible").filter(has_text="|---").count() == 0
    for theme in ("dark", "light"):
        page.evaluate("t => app.extensionManager.setting.set('Comfy.ColorPalette', t)", theme)
        page.wait_for_timeout(300)
        text, ground = box.evaluate(COLORS)
        assert text != ground
        page.screenshot(path=tmp_path / f"{theme}.png")
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


def test_a_report_never_becomes_html_and_leaves_when_another_text_comes(page):
    box = box_of(page)
    page.evaluate(WANTED)
    page.evaluate(SHOW, TEXT)
    kept, fresh = page.evaluate(SAVED)
    assert kept == fresh, "the report is no part of the workflow's file"
    assert box.locator("img").count() == 0 and page.evaluate("() => window.broken") is None
    assert box.locator("h3").inner_text() == HOSTILE and box.locator("p").inner_text() == f"A *plain* {HOSTILE}."
    assert column(box.locator("table"), 1) == [HOSTILE, "b|c", "d"]
    box.get_by_role("button", name="n", exact=True).press("Enter")
    assert column(box.locator("table"), 2) == ["9", "10", ""]
    page.evaluate(SHOW, "no report")
    box.wait_for(state="detached")
    assert page.evaluate("() => window.wanted.widgets.every(w => w.name !== 'lora_graft_report')")


def test_the_host_serves_the_modules(family_host):
    listed = json.loads(family_host.get("/extensions"))
    for file in (PACK / "web").glob("*.js"):
        address = next(a for a in listed if a.endswith(f"/{file.name}") and "LoRA-Graft" in a)
        assert family_host.get(address) == file.read_bytes()
