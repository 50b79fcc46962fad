"""Sliders for the strengths of connected LoRAs: the text stays the node's value, in both modes of the editor."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.host, pytest.mark.browser]
TEXT = "0.8, 1:0.5, -0.3"
NAMES = ["frame", "slant", "stripes"]
GRAPH = {
    str(i + 1): {"class_type": "LoraGraft_LoadLoRA", "inputs": {"lora_name": f"family_{name}_a.safetensors"}}
    for i, name in enumerate(NAMES)
} | {
    "4": {
        "class_type": "LoraGraft_LegoMerge",
        "inputs": {f"loras.lora_{i}": [str(i + 1), 0] for i in range(3)}
        | {"strengths": TEXT, "rank": "max", "k": 16, "energy": 0.95, "units": "canonical", "seed": 0}
        | {"parameter_reweighting": True, "output_reweighting": True},
    }
}
MERGE = "() => { window.merge = app.graph.nodes.find(n => n.type === 'LoraGraft_LegoMerge'); }"
CUT = "() => window.merge.disconnectInput(0)"
TAKE = """() => { const first = app.graph.nodes.find(n => n.widgets?.[0]?.value?.includes?.('frame'));
  first.connect(0, window.merge, window.merge.inputs.findLastIndex(i => i.name.startsWith('loras.'))); }"""
FEED = """() => { const n = LiteGraph.createNode('PrimitiveString'); app.graph.add(n);
  n.connect(0, window.merge, window.merge.inputs.findIndex(i => i.name === 'strengths')); }"""
HOSTILE = "<img src=x onerror=window.broken=1>.safetensors"
RENAME = """name => { const n = app.graph.nodes.find(n => n.type === 'LoraGraft_LoadLoRA'); n.widgets[0].value = name;
  app.api.dispatchCustomEvent('graphChanged'); }"""
READ = """async () => { const list = (await (await fetch('/extensions')).json()).find(a => a.endsWith('/strengths.js'));
  const {spread, follow} = await import(list);
  return [spread('', 2), spread('0.8', 2), spread('1, -.5:2e-1;\\n3', 3), spread('1, 2', 3), spread('1, x', 2),
    spread('0x10', 1), spread('1:2:3', 1), follow('1, 2:3', ['a', 'b'], ['b', 'a', 'c']),
    follow('2', ['a', 'b'], ['b']),
    follow('2', ['a'], ['a', 'b']), follow('1, 2', ['a', 'b'], ['a', 'c']), follow('1, 2', ['a'], ['a', 'b'])]; }"""
HEIGHT = "() => window.merge.size[1] - window.merge.computeSize()[1]"


@pytest.fixture
def canvas(opened):
    opened.load_api(GRAPH)
    opened.page.evaluate(MERGE)
    opened.fit()
    yield opened
    assert opened.complaints() == []


def strengths(canvas) -> str:
    (node,) = (n for n in canvas.export().values() if n["class_type"] == "LoraGraft_LegoMerge")
    assert set(node["inputs"]) >= set(GRAPH["4"]["inputs"]) - {"loras.lora_2"}
    return node["inputs"]["strengths"]


def follow(canvas) -> None:
    """The editor closes gaps, then the sliders follow."""
    for _ in range(3):
        canvas.settle()


def test_the_text_is_shown_as_sliders_and_stays_the_value(canvas, tmp_path):
    box = canvas.page.locator(".lora-graft-strengths")
    assert box.locator("span").all_inner_texts() == [
        "family_frame_a",
        "family_slant_a",
        "text encoder",
        "family_stripes_a",
    ]
    slide = box.locator("input[type=range]")
    assert [float(s.input_value()) for s in slide.all()] == [0.8, 1, 0.5, -0.3]
    assert strengths(canvas) == TEXT
    assert canvas.page.evaluate("() => window.merge.serialize().widgets_values[0]") == TEXT
    assert canvas.page.evaluate(HEIGHT) >= 0
    canvas.page.screenshot(path=tmp_path / "sliders.png")

    slide.nth(3).fill("-1.5")
    box.get_by_label("family_slant_a: strength").fill("3.25")
    assert strengths(canvas) == "0.8, 3.25:0.5, -1.5"
    box.get_by_label("family_slant_a: a strength of its own").click()
    assert strengths(canvas) == "0.8, 3.25, -1.5" and slide.count() == 3
    box.get_by_label("family_frame_a: a strength of its own").click()
    box.get_by_label("family_frame_a, text encoder: strength").fill("0")
    assert strengths(canvas) == "0.8:0, 3.25, -1.5"

    graph = canvas.page.evaluate("() => app.graph.serialize()")
    canvas.load(graph)
    follow(canvas)
    assert strengths(canvas) == "0.8:0, 3.25, -1.5" and slide.count() == 4


def test_strengths_follow_their_loras(canvas):
    canvas.page.evaluate(CUT)
    follow(canvas)
    assert strengths(canvas) == "1:0.5, -0.3"
    canvas.page.evaluate(TAKE)
    follow(canvas)
    assert strengths(canvas) == "1:0.5, -0.3, 1"
    box = canvas.page.locator(".lora-graft-strengths")
    assert box.locator("span").last.inner_text() == "family_frame_a"
    canvas.page.evaluate("() => { for (const at of [2, 1, 0]) window.merge.disconnectInput(at); }")
    follow(canvas)
    assert strengths_of_none(canvas) and "Connect LoRAs" in box.inner_text()


def strengths_of_none(canvas) -> bool:
    return canvas.page.evaluate("() => window.merge.inputs.every(i => !i.name.startsWith('loras.') || i.link == null)")


def test_a_text_that_does_not_fit_can_be_put_right(canvas):
    canvas.page.evaluate("() => { window.merge.widgets.find(w => w.name === 'strengths').value = '1, two'; }")
    field = canvas.page.locator(".lora-graft-strengths input[type=text]")
    assert field.input_value() == strengths(canvas) == "1, two"
    field.fill("1, 2, 3")
    field.press("Enter")
    field.wait_for(state="detached")
    assert canvas.page.locator(".lora-graft-strengths input[type=range]").count() == 3
    assert strengths(canvas) == "1, 2, 3"
    canvas.page.evaluate(RENAME, HOSTILE)
    box = canvas.page.locator(".lora-graft-strengths")
    assert box.locator("span").first.inner_text() == HOSTILE.removesuffix(".safetensors")
    assert box.locator("img").count() == 0 and canvas.page.evaluate("() => window.broken") is None


def test_a_text_that_is_connected_goes_before_the_sliders(canvas):
    canvas.page.evaluate(FEED)
    follow(canvas)
    box = canvas.page.locator(".lora-graft-strengths")
    assert box.locator("input").count() == 0 and "connected text" in box.inner_text()
    assert isinstance(strengths(canvas), list)
    canvas.page.evaluate("() => window.merge.disconnectInput('strengths')")
    follow(canvas)
    assert strengths(canvas) == TEXT and box.locator("input[type=range]").count() == 4


def test_the_text_is_read_as_the_nodes_read_it(canvas):
    one, half = {"model": 1, "clip": 1}, {"model": 0.8, "clip": 0.8}
    assert canvas.page.evaluate(READ) == [
        [one, one],
        [half, half],
        [one, {"model": -0.5, "clip": 0.2}, {"model": 3, "clip": 3}],
        *[None] * 4,
        "2:3, 1, 1",
        "2",
        "2, 1",
        "1, 2",
        "1, 2",
    ]
