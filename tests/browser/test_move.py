"""*Move to another base…* in the right-click menu of core's LoRA loaders, in both modes of the editor."""

from __future__ import annotations

import pytest
from editor import overlaps

pytestmark = [pytest.mark.host, pytest.mark.browser]
ITEM = "Move to another base…"
PROMPT = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "red digit three"}}
SAMPLED = {
    "seed": 0,
    "steps": 2,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
    "positive": ["5", 0],
    "negative": ["5", 0],
    "latent_image": ["6", 0],
}


def core(name: str, model: list, strength: float) -> dict:
    inputs = {"model": model, "lora_name": name, "strength_model": strength}
    return {"class_type": "LoraLoaderModelOnly", "inputs": inputs}


GRAPH = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "family_a.safetensors", "weight_dtype": "default"}},
    "2": {
        "class_type": "CLIPLoader",
        "inputs": {"clip_name": "family_clip_l.safetensors", "type": "sd3", "device": "default"},
    },
    "3": core("family_frame_a.safetensors", ["1", 0], 0.8),
    "4": core("family_slant_a.safetensors", ["3", 0], -0.5),
    "5": PROMPT,
    "6": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "7": {"class_type": "KSampler", "inputs": {"model": ["4", 0], **SAMPLED}},
    "8": {"class_type": "VAELoader", "inputs": {"vae_name": "family_vae.safetensors"}},
    "9": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["8", 0]}},
    "10": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}},
}
CHECKPOINT = """() => { app.graph.clear();
  const make = (type, x) => { const n = LiteGraph.createNode(type); app.graph.add(n); n.pos = [x, 100]; return n; };
  const base = make('CheckpointLoaderSimple', 0), lora = make('LoraLoader', 500);
  const text = make('CLIPTextEncode', 1000), sampler = make('KSampler', 1500), decode = make('VAEDecode', 2000);
  base.connect(0, lora, 0); base.connect(1, lora, 1); lora.connect(1, text, 0); lora.connect(0, sampler, 0);
  base.connect(2, decode, 1); window.base = base.id; window.lora = lora.id; }"""
KINDS = ["CLIPTextEncode", "CheckpointLoaderSimple", "KSampler", "LoraLoader", "VAEDecode"]
LINKS = """() => [...app.graph.links.values()].map(l => { const end = (id, kind, slot) =>
  `${app.graph.getNodeById(id).title}.${app.graph.getNodeById(id)[kind][slot].name}`;
  return `${end(l.origin_id, 'outputs', l.origin_slot)} > ${end(l.target_id, 'inputs', l.target_slot)}`; }).sort()"""
HEAD = """id => { const n = app.graph.getNodeById(id);
  const [x, y] = app.canvas.ds.convertOffsetToCanvas([n.pos[0], n.pos[1]]);
  const box = app.canvas.canvas.getBoundingClientRect(); return [box.x + x + 60, box.y + y - 12]; }"""


@pytest.fixture(params=[False, True], ids=["classic", "nodes 2"])
def canvas(editor, request):
    editor.open()
    editor.nodes_2(request.param)
    yield editor
    assert editor.complaints() == []
    editor.nodes_2(False)


def menu(canvas, node):
    """The item in the node's menu, which a right-click on its title opens."""
    canvas.fit()
    canvas.page.mouse.click(*canvas.page.evaluate(HEAD, node), button="right")
    item = canvas.page.get_by_text(ITEM, exact=True)
    canvas.page.wait_for_timeout(500)
    return item


def by_class(api: dict, kind: str) -> list[str]:
    return [key for key, node in api.items() if node["class_type"] == kind]


def test_two_loras_move_to_another_base_and_are_drawn(canvas):
    canvas.load_api(GRAPH)
    ids = {node["type"]: node["id"] for node in canvas.nodes()}
    assert menu(canvas, ids["KSampler"]).count() == 0
    canvas.page.keyboard.press("Escape")
    for name in ("family_slant_a.safetensors", "family_frame_a.safetensors"):
        loader = next(n["id"] for n in canvas.nodes() if any(w["value"] == name for w in n["widgets"]))
        menu(canvas, loader).click()
        canvas.settle()
    assert by_class(canvas.export(), "LoraLoaderModelOnly") == []
    target = next(node["id"] for node in canvas.nodes() if node["title"].startswith("New base"))
    canvas.page.evaluate("id => app.graph.getNodeById(id).widgets[0].value = 'family_b.safetensors'", target)

    api = canvas.export()
    (old, new) = sorted(by_class(api, "UNETLoader"), key=lambda key: api[key]["inputs"]["unet_name"])
    assert [api[key]["inputs"]["unet_name"] for key in (old, new)] == ["family_a.safetensors", "family_b.safetensors"]
    step = api[by_class(api, "KSampler")[0]]
    for name, strength in (("slant", -0.5), ("frame", 0.8)):
        applied = api[step["inputs"]["model"][0]]
        assert applied["class_type"] == "LoraGraft_ApplyLoRA" and applied["inputs"]["strength_model"] == strength
        moved = api[applied["inputs"]["lora"][0]]
        assert moved["class_type"] == "LoraGraft_Transfer" and applied["inputs"]["lora"][1] == 0
        assert [moved["inputs"][key] for key in ("source", "target")] == [[old, 0], [new, 0]]
        assert api[moved["inputs"]["lora"][0]]["inputs"]["lora_name"] == f"family_{name}_a.safetensors"
        step = applied
    assert step["inputs"]["model"] == [new, 0]
    boxes = [(node["title"], node["box"]) for node in canvas.nodes()]
    assert overlaps(boxes) == []
    if canvas.page.evaluate("() => LiteGraph.vueNodesMode"):
        assert overlaps(list(canvas.rectangles().items())) == []
    assert canvas.run()["type"] == "execution_success"
    assert all(not node["errors"] for node in canvas.nodes())
    assert canvas.page.evaluate("id => app.nodeOutputs[id].images.length", ids["PreviewImage"]) == 1


def test_a_checkpoint_gives_all_its_outputs_to_the_new_one(canvas):
    canvas.page.evaluate(CHECKPOINT)
    canvas.load(canvas.page.evaluate("() => app.graph.serialize()"))  # where an undo ends
    lora = canvas.page.evaluate("() => window.lora")
    menu(canvas, lora).click()
    canvas.settle()
    assert canvas.page.evaluate(LINKS) == sorted(
        f"{one} > {other}"
        for one, other in (
            ("Load LoRA.lora", "LoRA-X Transfer.lora"),
            ("Old base.MODEL", "LoRA-X Transfer.source"),
            ("Old base.CLIP", "LoRA-X Transfer.source_clip"),
            ("New base: choose its file.MODEL", "LoRA-X Transfer.target"),
            ("New base: choose its file.CLIP", "LoRA-X Transfer.target_clip"),
            ("New base: choose its file.MODEL", "Apply LoRA.model"),
            ("New base: choose its file.CLIP", "Apply LoRA.clip"),
            ("LoRA-X Transfer.lora", "Apply LoRA.lora"),
            ("LoRA-X Transfer.report", "What survived.source"),
            ("Apply LoRA.model", "KSampler.model"),
            ("Apply LoRA.clip", "CLIP Text Encode (Prompt).clip"),
            ("New base: choose its file.VAE", "VAE Decode.vae"),
        )
    )
    canvas.page.evaluate("() => app.extensionManager.command.execute('Comfy.Undo')")
    canvas.settle()
    assert sorted(node["type"] for node in canvas.nodes()) == KINDS
