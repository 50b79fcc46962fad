"""Models in ComfyUI's quantised layouts, read as comfy-kitchen multiplies them out."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from lora_graft.bases import open_base
from lora_graft.errors import BaseModelError
from lora_graft.io.comfy_quant import LAYOUTS
from lora_graft.io.rounding import rounding
from lora_graft.jobs.transfer.pairs import SLACK
from lora_graft.names import DENOISER
from safetensors.torch import save_file

MODULE = "blocks.0.attn.to_q"
# kind → (options of the library's quantiser, what the module's note says beside the format, largest relative error)
KINDS = {
    "nvfp4": ({}, {}, 0.12),
    "mxfp8": ({}, {}, 0.04),
    "int8_tensorwise": ({}, {}, 0.02),
    "int8_tensorwise by rows": ({"per_channel": True}, {}, 0.01),
    "int8_tensorwise rotated": (
        {"per_channel": True, "convrot": True, "convrot_groupsize": 64},
        {"convrot": True, "convrot_groupsize": 64},
        0.01,
    ),
    "convrot_w4a4": ({"convrot_groupsize": 64}, {"convrot_groupsize": 64}, 0.16),
    "asym_w4a8_int8": (
        {"group_size": 16, "convrot_groupsize": 64},
        {"group_size": 16, "params": {"convrot_groupsize": 64}},
        0.1,
    ),
}


@pytest.fixture
def weight():
    return torch.randn(96, 128, generator=torch.Generator().manual_seed(3))


def quantised(weight, kind, module=MODULE):
    """The tensors of a file with one quantised weight, what they mean, and the module's note."""
    kitchen = pytest.importorskip("comfy_kitchen.tensor", reason="comfy-kitchen is not installed")
    options, extra, _ = KINDS[kind]
    name = kind.split(" ")[0]
    layout = getattr(kitchen, LAYOUTS[name].name)
    values, params = layout.quantize(weight, **options)
    tensors = layout.state_dict_tensors(values, params)
    found = {f"{module}.weight{suffix}": tensor.contiguous() for suffix, tensor in tensors.items()}
    return found, layout.dequantize(values, params), {"format": name, **extra}


def noted(tensors, note, module=MODULE):
    return tensors | {f"{module}.comfy_quant": torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["tensor", "metadata"])
def test_weights_are_what_the_library_says(tmp_path, weight, kind, where):
    tensors, meant, note = quantised(weight, kind)
    plain = {"blocks.0.norm.weight": torch.randn(128), "blocks.0.mlp.weight": torch.randn(8, 4)}
    file = tmp_path / "model.safetensors"
    if where == "tensor":
        save_file(noted(tensors, note) | plain, file)
    else:
        save_file(tensors | plain, file, {"_quantization_metadata": json.dumps({"layers": {MODULE: note}})})
    base = open_base(file)
    assert base.weights() == {
        DENOISER + MODULE + ".weight": (96, 128),
        DENOISER + "blocks.0.norm.weight": (128,),
        DENOISER + "blocks.0.mlp.weight": (8, 4),
    }
    loaded = base.load(DENOISER + MODULE + ".weight")
    assert loaded.dtype == torch.float32 and torch.equal(loaded, meant)
    assert torch.equal(base.load(DENOISER + MODULE + ".weight", (32, 17)), meant[32:49])
    assert torch.equal(base.load(DENOISER + "blocks.0.mlp.weight"), plain["blocks.0.mlp.weight"])
    stored = {"nvfp4": "nvfp4", "mxfp8": "mxfp8", "int8_tensorwise": "int8"}.get(kind.split(" ")[0], "int4")
    assert base.storage(DENOISER + MODULE + ".weight") == stored
    assert 0 < SLACK * rounding(stored, weight) > (loaded - weight).norm() / weight.norm(), "what tells one base"
    # An independent look: close to the weight that was quantised, as each layout's bits allow.
    assert (loaded - weight).norm() / weight.norm() < KINDS[kind][2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_scale_changes_the_digest(tmp_path, weight, kind):
    tensors, _, note = quantised(weight, kind)
    name = DENOISER + MODULE + ".weight"
    save_file(noted(tensors, note), tmp_path / "a.safetensors")
    scale = MODULE + ".weight" + next(iter(LAYOUTS[note["format"]].scales))
    changed = tensors[scale].reshape(-1).view(torch.uint8).clone()
    changed[0] ^= 1
    other = tensors | {scale: changed.view(tensors[scale].dtype).reshape(tensors[scale].shape)}
    save_file(noted(other, note), tmp_path / "b.safetensors")
    one, two = (open_base(tmp_path / f"{letter}.safetensors") for letter in "ab")
    assert one.digest(name) == open_base(tmp_path / "a.safetensors").digest(name) != two.digest(name)


def test_rows_of_a_fused_weight(tmp_path):
    """A slice of a fused weight is the same rows that a plain file has."""
    weight = torch.randn(3 * 64, 64, generator=torch.Generator().manual_seed(4))
    tensors, meant, note = quantised(weight, "nvfp4", "double_blocks.0.img_attn.qkv")
    save_file(noted(tensors, note, "double_blocks.0.img_attn.qkv"), tmp_path / "model.safetensors")
    base = open_base(tmp_path / "model.safetensors")
    for i in range(3):
        rows = base.load(DENOISER + "double_blocks.0.img_attn.qkv.weight", (64 * i, 64))
        assert torch.equal(rows, meant[64 * i : 64 * (i + 1)])


def test_fp8_with_a_note_needs_no_library(tmp_path, weight, monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_kitchen", None)
    stored = (weight / 0.02).to(torch.float8_e4m3fn)
    tensors = {MODULE + ".weight": stored, MODULE + ".weight_scale": torch.tensor(0.02)}
    save_file(noted(tensors, {"format": "float8_e4m3fn"}), tmp_path / "model.safetensors")
    loaded = open_base(tmp_path / "model.safetensors").load(DENOISER + MODULE + ".weight")
    assert torch.equal(loaded, stored.float() * 0.02)


def test_without_the_library_the_message_says_what_to_install(tmp_path, weight, monkeypatch):
    tensors, _, note = quantised(weight, "nvfp4")
    save_file(noted(tensors, note), tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "comfy_kitchen", None)
    base = open_base(tmp_path / "model.safetensors")
    assert base.weights()[DENOISER + MODULE + ".weight"] == (96, 128)  # known without it
    with pytest.raises(BaseModelError, match="comfy-kitchen") as caught:
        base.load(DENOISER + MODULE + ".weight")
    assert "pip install comfy-kitchen" in str(caught.value) and "model.safetensors" in str(caught.value)


def without(suffix):
    return lambda tensors, note: ({k: v for k, v in tensors.items() if not k.endswith(suffix)}, note)


def replaced(suffix, make):
    return lambda tensors, note: ({k: make(v) if k.endswith(suffix) else v for k, v in tensors.items()}, note)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("_scale"), "lacks its scale"),
        (without("_scale_2"), "lacks its scale"),
        (lambda tensors, note: (tensors, {"format": "int3_secret"}), "int3_secret"),
        (lambda tensors, note: (tensors, {"format": 7}), "not known here"),
        (lambda tensors, note: (tensors, {}), "not known here"),
        (lambda tensors, note: (tensors, [1, 2]), "makes no sense"),
        (lambda tensors, note: (tensors, {"format": "convrot_w4a4"}), "makes no sense"),
        (replaced(".weight", lambda t: t.flatten()), "makes no sense"),
        (replaced("_scale", lambda t: t[:1, :1].contiguous()), "do not fit it"),
    ],
)
def test_spoilt_files_are_refused_with_the_key(tmp_path, weight, spoil, message):
    tensors, note = spoil(*[quantised(weight, "nvfp4")[i] for i in (0, 2)])
    save_file(noted(tensors, note), tmp_path / "model.safetensors")
    with pytest.raises(BaseModelError, match=message) as caught:
        open_base(tmp_path / "model.safetensors").load(DENOISER + MODULE + ".weight")
    assert MODULE in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}', '{"layers": {"a": 5}}'])
def test_senseless_metadata_is_refused(tmp_path, text):
    save_file({MODULE + ".weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors", {"_quantization_metadata": text})
    with pytest.raises(BaseModelError, match="makes no sense"):
        open_base(tmp_path / "model.safetensors")


@pytest.mark.parametrize("note", [{"convrot_groupsize": "many"}, {"convrot_groupsize": None}, {"params": 3}])
def test_senseless_options(tmp_path, weight, note):
    tensors, meant, told = quantised(weight, "convrot_w4a4")
    save_file(noted(tensors, {"format": "convrot_w4a4", **note}), tmp_path / "model.safetensors")
    with pytest.raises(BaseModelError):
        open_base(tmp_path / "model.safetensors").load(DENOISER + MODULE + ".weight")
