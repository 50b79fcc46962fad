"""Inputs that belong to one choice are shown only with it, in both modes of the editor; their values stay."""

from __future__ import annotations

import pytest
from lora_graft.choices import Merge

pytestmark = [pytest.mark.host, pytest.mark.browser]
INPUTS = {"method": "svd", "rank": "max", "k": 7, "energy": 0.5, "density": 0.25, "units": "paper", "seed": 3}
INPUTS |= {"parameter_reweighting": False, "output_reweighting": False, "strengths": "1"}
GRAPH = {
    "1": {"class_type": "LoraGraft_LoadLoRA", "inputs": {"lora_name": "family_frame_a.safetensors"}},
    "2": {"class_type": "LoraGraft_MergeLoRAs", "inputs": {"loras.lora_0": ["1", 0], **INPUTS}},
}
FIND = "() => { window.merge = app.graph.nodes.find(n => n.type === 'LoraGraft_MergeLoRAs'); }"
CHOOSE = """([name, value]) => { const w = window.merge.widgets.find(w => w.name === name);
  w.value = value; w.callback?.(value); }"""
SHOWN = "() => window.merge.widgets.filter(w => !w.hidden).map(w => w.name)"
FEED = """() => { const n = LiteGraph.createNode('PrimitiveInt'); app.graph.add(n);
  n.connect(0, window.merge, window.merge.inputs.findIndex(i => i.name === 'k')); }"""
OTHERS = """() => { const n = LiteGraph.createNode('LoraGraft_Transfer'); app.graph.add(n); window.merge = n; }"""
LEAST = "() => window.merge.size[1] - window.merge.computeSize()[1]"


@pytest.fixture
def canvas(opened):
    opened.load_api(GRAPH)
    opened.page.evaluate(FIND)
    opened.fit()
    yield opened
    assert opened.complaints() == []


def choose(canvas, name: str, value) -> set[str]:
    """Choose a value; the inputs that are shown then."""
    canvas.page.evaluate(CHOOSE, [name, value])
    canvas.settle()
    shown = set(canvas.page.evaluate(SHOWN))
    assert canvas.page.evaluate(LEAST) >= 0
    if canvas.page.evaluate("() => LiteGraph.vueNodesMode"):
        box = canvas.page.locator(f"[data-node-id='{canvas.page.evaluate('() => window.merge.id')}']")
        for plain in {"k", "energy", "density"} & set(INPUTS):
            assert box.get_by_text(plain, exact=True).count() == (plain in shown), (name, value, plain)
    return shown


def test_a_method_shows_its_own_inputs_and_the_others_keep_their_values(canvas):
    assert {"k", "energy", "density", "units", "seed"} & set(canvas.page.evaluate(SHOWN)) == set()
    for method in Merge.methods:
        shown = choose(canvas, "method", method)
        for name, methods in {**Merge.readers, "units": ["lego"], "parameter_reweighting": ["lego"]}.items():
            assert (name in shown) == (method in methods), (method, name)
        assert ("fixed" in shown or "control_after_generate" in shown) == ("seed" in shown), "the seed's companion"
    choose(canvas, "method", "lego")
    assert "output_reweighting" not in choose(canvas, "units", "canonical")
    assert "output_reweighting" in choose(canvas, "units", "balanced")
    for rank in (*Merge.ranks, "fixed"):
        shown = choose(canvas, "rank", rank)
        assert ("k" in shown, "energy" in shown) == (rank == "fixed", rank == "auto")
    choose(canvas, "method", "svd")
    choose(canvas, "rank", "max")
    canvas.page.evaluate(FEED)
    assert "k" in canvas.page.evaluate(SHOWN), "what a link feeds is in view"
    canvas.page.evaluate("() => window.merge.disconnectInput('k')")
    assert "k" not in canvas.page.evaluate(SHOWN)

    (sent,) = (n["inputs"] for n in canvas.export().values() if n["class_type"] == "LoraGraft_MergeLoRAs")
    assert {name: sent[name] for name in INPUTS} == {**INPUTS, "units": "balanced"}
    graph = canvas.page.evaluate("() => app.graph.serialize()")
    canvas.load(graph)
    canvas.page.evaluate(FIND)
    (again,) = (n["inputs"] for n in canvas.export().values() if n["class_type"] == "LoraGraft_MergeLoRAs")
    assert again == sent and "density" not in canvas.page.evaluate(SHOWN)


def test_a_switch_and_a_number_show_what_they_turn_on(canvas):
    canvas.page.evaluate(OTHERS)
    assert {"match_size", "below_threshold", "k", "energy"} & set(canvas.page.evaluate(SHOWN)) == set()
    assert "below_threshold" in choose(canvas, "threshold", 0.3)
    assert "match_size" in choose(canvas, "match_strength", True)
    assert {"k", "k_share"} & choose(canvas, "subspace", "fixed") == {"k"}
    assert "below_threshold" not in choose(canvas, "threshold", 0)
