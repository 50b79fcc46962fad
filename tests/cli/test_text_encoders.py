"""A language model's file as the base: the text encoders of image models, on the command line."""

from __future__ import annotations

import pytest
import torch
from lora_graft.bases import open_base
from safetensors.torch import load_file, save_file

WIDTH, LAYERS = 32, 2
QWEN, T5 = "model.layers.{}.self_attn.{}_proj", "encoder.block.{}.layer.0.SelfAttention.{}"


def encoder(seed: int, names: str) -> dict[str, torch.Tensor]:
    """The weights of a small Qwen 3 or T5 encoder, as ComfyUI's files have them."""
    dice = torch.Generator().manual_seed(seed)
    tensors = {
        "model.embed_tokens.weight" if names == QWEN else "shared.weight": torch.randn(20, WIDTH, generator=dice)
    }
    for layer in range(LAYERS):
        for letter in "qkv":
            tensors[f"{names.format(layer, letter)}.weight"] = torch.randn(WIDTH, WIDTH, generator=dice)
        if names == QWEN:
            tensors[f"model.layers.{layer}.self_attn.q_norm.weight"] = torch.ones(WIDTH)
    return tensors | {"spiece_model": torch.arange(50, dtype=torch.uint8)}  # a tokenizer


def lora(spelled: str) -> dict[str, torch.Tensor]:
    """Rank 2 on every query, its keys spelled with the layer's number and "q"."""
    dice, tensors = torch.Generator().manual_seed(9), {}
    for layer in range(LAYERS):
        for end, shape in (("up", (WIDTH, 2)), ("down", (2, WIDTH))):
            tensors[f"{spelled.format(layer, 'q')}.lora_{end}.weight"] = torch.randn(shape, generator=dice)
    return tensors


@pytest.fixture
def files(tmp_path):
    for names, kind in ((QWEN, "qwen"), (T5, "t5")):
        for number, base in enumerate("ab"):
            save_file(encoder(number, names), tmp_path / f"{kind}_{base}.safetensors")
    return tmp_path


def between(files, kind: str) -> list:
    return ["--source", files / f"{kind}_a.safetensors", "--target", files / f"{kind}_b.safetensors"]


@pytest.mark.parametrize(
    ("kind", "spelled"),
    [
        ("qwen", "lora_te_layers_{}_self_attn_{}_proj"),
        ("qwen", f"text_encoders.qwen3_4b.transformer.{QWEN}"),
        ("qwen", f"text_encoder.{QWEN}"),
        ("qwen", f"base_model.model.{QWEN}"),
        ("t5", "lora_te3_encoder_block_{}_layer_0_SelfAttention_{}"),
        ("t5", f"text_encoders.t5xxl.transformer.{T5}"),
    ],
)
def test_a_lora_moves_between_two_files_and_keeps_its_keys(cli, files, kind, spelled):
    made = lora(spelled)
    save_file(made, files / "lora.safetensors")
    for method in ("copy", "rotate"):
        out = files / f"{method}.safetensors"
        told = cli("transfer", files / "lora.safetensors", *between(files, kind), "--method", method, "-o", out)
        assert told.exit_code == 0, told.output
        moved = load_file(out)
        assert moved.keys() >= made.keys()
        assert all(torch.equal(moved[key], made[key]) for key in made) == (method == "copy")


def test_comfyui_names_come_out_for_any_spelling(cli, files):
    save_file(lora(f"text_encoder.{QWEN}"), files / "lora.safetensors")
    base = files / "qwen_a.safetensors"
    expected = {
        "comfy": f"text_encoders.qwen3_4b.transformer.{QWEN}.lora_up.weight",
        "kohya": "lora_te_layers_{}_self_attn_{}_proj.lora_up.weight",
        "peft": f"base_model.model.{QWEN}.lora_B.weight",
    }
    for layout, key in expected.items():
        out = files / f"{layout}.safetensors"
        told = cli("convert", files / "lora.safetensors", "--layout", layout, "--base", base, "-o", out)
        assert told.exit_code == 0, told.output
        assert key.format(1, "q") in load_file(out)


def test_loras_of_two_trainers_are_merged_weight_by_weight(cli, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    one, other = lora("lora_te_layers_{}_self_attn_{}_proj"), lora(f"text_encoder.{QWEN}")
    save_file(one, files / "one.safetensors")
    save_file(other, files / "other.safetensors")
    told = cli(
        *("merge", files / "one.safetensors", files / "other.safetensors", "--method", "concat", "--rank", "sum"),
        *("--base", files / "qwen_a.safetensors", "-o", files / "sum.safetensors"),
    )
    assert told.exit_code == 0, told.output
    assert "qwen3_4b.layers.1" in told.output  # whole, however narrow the terminal
    merged, key = load_file(files / "sum.safetensors"), "lora_te_layers_1_self_attn_q_proj"
    up, down = (merged[f"{key}.lora_{end}.weight"].float() for end in ("up", "down"))
    scale = float(merged[f"{key}.alpha"]) / down.shape[0] if f"{key}.alpha" in merged else 1.0
    single = one[f"{key}.lora_up.weight"] @ one[f"{key}.lora_down.weight"]
    assert len(merged) <= 3 * LAYERS
    torch.testing.assert_close(up @ down * scale, 2 * single, rtol=1e-4, atol=1e-4)


def test_a_tokenizer_in_the_file_is_no_weight(files):
    names = open_base(files / "qwen_a.safetensors").weights()
    assert len(names) == 1 + 4 * LAYERS and all(name.startswith("qwen3_4b.transformer.model.") for name in names)


def test_similarity_and_inspect_name_the_text_encoder(cli, files):
    save_file(lora("lora_te_layers_{}_self_attn_{}_proj"), files / "lora.safetensors")
    told = cli(
        "similarity", files / "qwen_a.safetensors", files / "qwen_a.safetensors", "--lora", files / "lora.safetensors"
    )
    assert told.exit_code == 0 and "qwen3_4b" in told.output, told.output
    told = cli("inspect", files / "lora.safetensors")
    assert told.exit_code == 0 and "text encoder" in told.output, told.output
