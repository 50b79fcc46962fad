"""Load LoRA tells what the chosen file is and warns of a base it is not for; the route behind it confines itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
import torch
from safetensors.torch import save_file

pytestmark = [pytest.mark.host, pytest.mark.browser]
HOSTILE = "<img src=x onerror=window.broken=1>"
STRANGER = "stranger.safetensors"
SIZED = {"method": "copy", "subspace": "share", "k_share": 0.25, "k": 8, "energy": 0.9}
GRAPH = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "family_a.safetensors", "weight_dtype": "default"}},
    "2": {"class_type": "ModelSamplingSD3", "inputs": {"model": ["1", 0], "shift": 3.0}},
    "3": {"class_type": "LoraGraft_LoadLoRA", "inputs": {"lora_name": "family_frame_a.safetensors"}},
    "4": {
        "class_type": "LoraGraft_Transfer",
        "inputs": {"lora": ["3", 0], "source": ["2", 0], "target": ["1", 0], **SIZED}
        | {"threshold": 0.0, "rank": 0, "strength": 1.0},
    },
}
CHOOSE = """name => { const n = app.graph.nodes.find(n => n.type === 'LoraGraft_LoadLoRA'), w = n.widgets[0];
  w.value = name; w.callback?.(name); window.load = n; }"""
CUT = """() => { const n = app.graph.nodes.find(n => n.type === 'LoraGraft_Transfer');
  n.disconnectInput('source'); app.api.dispatchCustomEvent('graphChanged'); }"""
LEAST = "() => window.load.size[1] - window.load.computeSize()[1]"


@pytest.fixture(scope="module")
def stranger(family_host):
    """A LoRA for a UNet, whose trigger words are HTML, and a file that is no LoRA."""
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": torch.zeros(4, 768), f"{key}.lora_up.weight": torch.zeros(640, 4)}
    loras = family_host.models / "loras"
    save_file(tensors, loras / STRANGER, {"modelspec.trigger_phrase": HOSTILE})
    (loras / "junk.safetensors").write_bytes(b"junk")
    yield family_host
    (loras / STRANGER).unlink()
    (loras / "junk.safetensors").unlink()


@pytest.mark.parametrize("newer", [False, True], ids=["classic", "nodes 2"])
def test_the_picker_tells_and_warns(editor, stranger, newer, tmp_path):
    editor.open()
    editor.nodes_2(newer)
    editor.load_api(GRAPH)
    box = editor.page.locator(".lora-graft-about")
    box.get_by_text("SD3 · rank 8 · 0.2 MB").wait_for()
    assert (
        box.locator("p").nth(1).inner_text() == "Trigger words: digit" and box.locator(".lora-graft-wrong").count() == 0
    )
    editor.page.evaluate(CHOOSE, STRANGER)
    box.get_by_text("SD 1.5 · rank 4 · 0.0 MB").wait_for()
    assert box.locator("p").nth(1).inner_text() == f"Trigger words: {HOSTILE}"
    assert "Not for the connected base family_a.safetensors (SD3)" in box.locator(".lora-graft-wrong").inner_text()
    assert box.locator("img").count() == 0 and editor.page.evaluate("() => window.broken") is None
    assert editor.page.evaluate(LEAST) >= 0
    editor.fit()
    editor.page.screenshot(path=tmp_path / "picker.png")
    editor.page.evaluate(CUT)
    box.locator(".lora-graft-wrong").wait_for(state="detached")
    editor.page.evaluate(CHOOSE, "junk.safetensors")
    box.locator(".lora-graft-wrong").wait_for()
    (sent,) = (n for n in editor.export().values() if n["class_type"] == "LoraGraft_LoadLoRA")
    assert sent["inputs"] == {"lora_name": "junk.safetensors"}
    assert editor.page.evaluate("() => window.load.serialize().widgets_values") == ["junk.safetensors"]
    assert editor.complaints() == []
    editor.console.clear()
    editor.nodes_2(False)


def asked(host, **query) -> tuple[int, dict]:
    address = f"http://127.0.0.1:{host.port}/api/lora_graft/lora?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def test_the_route_answers_for_listed_files_alone(stranger):
    base = {"folder": "diffusion_models", "base": "family_a.safetensors"}
    status, found = asked(stranger, name=STRANGER, **base)
    assert (status, found["architecture"], found["ranks"], found["fits"]) == (200, "SD 1.5", [4, 4], False)
    assert found["triggers"] == [HOSTILE] and found["base"] == "SD3"
    secret = stranger.models / "diffusion_models" / "family_a.safetensors"
    for name in ("../diffusion_models/family_a.safetensors", str(secret), "", "gone.safetensors", "."):
        assert asked(stranger, name=name)[0] == 404, name
    for more in ({"folder": "vae", "base": "family_vae.safetensors"}, {**base, "base": "../loras/" + STRANGER}):
        assert asked(stranger, name=STRANGER, **more)[0] == 404, more
    assert asked(stranger, name=STRANGER, base="family_a.safetensors")[0] == 404
    status, found = asked(stranger, name="junk.safetensors")
    assert (status, [*found]) == (200, ["error"]) and str(stranger.models) not in json.dumps(found)
