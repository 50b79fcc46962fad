"""The shipped workflows and the nodes in ComfyUI's graph editor, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from editor import overlaps
from PIL import Image

pytestmark = [pytest.mark.host, pytest.mark.browser]
FOLDER = Path(__file__).parents[2] / "workflows"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
SHELF = """types => { app.graph.clear(); types.forEach((type, i) => {
  const node = LiteGraph.createNode(type); app.graph.add(node); node.pos = [i % 4 * 500, Math.floor(i / 4) * 700];
}); }"""


@pytest.fixture(scope="module")
def canvas(editor):
    """The opened editor."""
    editor.open()
    return editor


@pytest.fixture(scope="module")
def info(family_host):
    """What the server tells of every node."""
    return json.loads(family_host.get("/object_info"))


@pytest.fixture(scope="module")
def ours(info):
    """The nodes of this pack."""
    return {name: node for name, node in info.items() if name.startswith("LoraGraft_")}


def graph(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def by_title(api: dict, info: dict) -> dict:
    """A workflow in API form with titles for ids, and with the defaults of inputs that it leaves out."""
    titles = {key: node["_meta"]["title"] for key, node in api.items()}
    assert len(set(titles.values())) == len(titles)

    def link(value):
        return [titles[value[0]], value[1]] if isinstance(value, list) else value

    def defaults(kind: str) -> dict:
        specs = {**info[kind]["input"].get("required", {}), **info[kind]["input"].get("optional", {})}
        return {name: spec[1]["default"] for name, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}

    return {
        titles[key]: {"class_type": node["class_type"], **defaults(node["class_type"])}
        | {name: link(value) for name, value in node["inputs"].items()}
        for key, node in api.items()
    }


def boxes(things: list[dict]) -> list[tuple[str, list[float]]]:
    return [(thing["title"], thing["box"]) for thing in things]


def within(inner: list[float], outer: list[float]) -> bool:
    x, y, w, h = inner
    x2, y2, w2, h2 = outer
    return x2 <= x and y2 <= y and x + w <= x2 + w2 and y + h <= y2 + h2


def test_a_newcomer_finds_and_runs_a_workflow(editor):
    """The template browser greets, shows every workflow with its picture, opens one, and the Run button runs it."""
    editor.open(newcomer=True)
    dialog = editor.page.get_by_role("dialog")
    dialog.get_by_text("LoRA-Graft", exact=True).click()
    cards = dialog.locator("[data-testid^=template-workflow-]")
    cards.first.wait_for()
    shown = {card.get_attribute("data-testid") for card in cards.all()}
    assert shown == {f"template-workflow-{name}" for name in NAMES}
    for card in cards.all():
        card.scroll_into_view_if_needed()  # pictures are fetched when they come into view
        card.locator("img").wait_for()
        assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 200
    dialog.get_by_test_id("template-workflow-transfer_before_sampling").click()
    count = len(graph("transfer_before_sampling")["nodes"])
    editor.page.wait_for_function("count => app.graph.nodes.length === count", arg=count)
    assert editor.run(button=True)["type"] == "execution_success"
    assert editor.complaints() == []


@pytest.mark.parametrize("name", NAMES)
def test_workflow(canvas, info, name, tmp_path):
    canvas.load(graph(name))
    nodes, groups = canvas.nodes(), canvas.groups()
    assert all(node["known"] for node in nodes) and canvas.page.get_by_role("dialog").count() == 0
    shipped = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert by_title(canvas.export(), info) == by_title(shipped, info)
    for node in nodes:
        for widget in node["widgets"]:
            assert widget["choices"] is None or widget["value"] in widget["choices"], (node["title"], widget)
            if widget["max"] is not None and isinstance(widget["value"], (int, float)):
                assert widget["min"] <= widget["value"] <= widget["max"], (node["title"], widget)
    assert any(node["type"] == "MarkdownNote" and "**Replace:**" in node["widgets"][0]["value"] for node in nodes)
    left = {node["id"]: node["box"][0] for node in nodes}
    assert [link for link in graph(name)["links"] if left[link[1]] > left[link[3]]] == [], "links that run backwards"

    end = canvas.run(button=True)
    assert end["type"] == "execution_success", end.get("exception_message")
    nodes = canvas.nodes()  # pictures have made some of them grow
    assert not [node["title"] for node in nodes if node["errors"]]
    assert any(node["pictures"] for node in nodes)
    assert overlaps(boxes(nodes)) == [] and overlaps(boxes(groups)) == []
    for node in nodes:
        assert any(within(node["box"], group["box"]) for group in groups), f"{node['title']} stands outside its group"
    assert canvas.complaints() == []

    canvas.page.screenshot(path=tmp_path / f"{name}.png")
    assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 10
    with Image.open(FOLDER / f"{name}.jpg") as thumbnail:
        assert max(thumbnail.size) == 480 and (FOLDER / f"{name}.jpg").stat().st_size < 60_000


def test_every_api_form_has_its_graph_form():
    assert {file.stem for file in (FOLDER / "api").glob("*.json")} == set(NAMES)


@pytest.fixture
def nodes_2(canvas):
    """The editor in its newer mode."""
    canvas.nodes_2(True)
    yield canvas
    canvas.nodes_2(False)


def test_nodes_2_overlap_nowhere_either(nodes_2):
    for name in NAMES:
        nodes_2.load(graph(name))
        titles = {str(node["id"]): node["title"] for node in nodes_2.nodes()}
        shown = nodes_2.rectangles()
        assert set(shown) == set(titles)
        assert overlaps([(titles[key], box) for key, box in shown.items()]) == [], name


def shelf(canvas, types) -> dict[str, int]:
    """One node of each type on the canvas; type → its id."""
    canvas.page.evaluate(SHELF, list(types))
    canvas.fit()
    return {node["type"]: node["id"] for node in canvas.nodes()}


def test_advanced_inputs_are_folded(nodes_2, ours):
    for name, number in shelf(nodes_2, ours).items():
        inputs = {**ours[name]["input"].get("required", {}), **ours[name]["input"].get("optional", {})}
        value = {key: spec[1].get("default") for key, spec in inputs.items() if len(spec) > 1}
        folded = {
            key
            for key, spec in inputs.items()
            if spec[1].get("advanced")
            and all(
                value[other] in among if among else value[other]
                for other, among in spec[1].get("lora_graft_with", {}).items()
                if other in value
            )
        }
        box = nodes_2.page.locator(f"[data-node-id='{number}']")
        assert not folded & set(box.inner_text().split("\n")), name
        if folded:
            box.get_by_test_id("advanced-inputs-button").click()
        for key in folded:
            box.get_by_text(key, exact=True).wait_for(timeout=60_000)


def test_search_finds_nodes_by_their_aliases(canvas, ours):
    page = canvas.page
    for node in ours.values():
        page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        page.get_by_role("dialog").wait_for()
        page.keyboard.insert_text(node["search_aliases"][0])
        page.locator("[role=option]").filter(has_text=node["display_name"]).first.wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="hidden")


def test_help_pages_open_with_their_pictures(canvas, ours):
    page = canvas.page
    for name, number in shelf(canvas, ours).items():
        page.evaluate("id => { app.canvas.deselectAll(); app.canvas.selectNode(app.graph.getNodeById(id)); }", number)
        page.get_by_test_id("info-button").dispatch_event("click")
        help_page = page.locator(".node-help-content")
        help_page.get_by_role("heading", name=ours[name]["display_name"], exact=True).first.wait_for()
        help_page.get_by_role("heading", name="Outputs").wait_for()
        for picture in help_page.locator("img").all():
            picture.scroll_into_view_if_needed()
            assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
