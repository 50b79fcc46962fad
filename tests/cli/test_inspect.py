"""``lora-graft inspect`` and the inspection behind it."""

import json

import pytest
import torch
from lora_graft import adapters
from lora_graft.jobs.inspect import inspect, inspect_adapter
from safetensors.torch import save_file


def test_tells_what_the_file_is(cli, shelf):
    result = cli("inspect", shelf / "lora.safetensors")
    assert result.exit_code == 0
    for words in (
        "kohya",
        "SD 1.5",
        "28 modules",
        "Ranks: 4 × 28",
        "Alphas: 2 × 28",
        "red frame (10)",
        "UNet middle: 9",
    ):
        assert words in result.stdout


def test_json_holds_the_same_figures(cli, shelf, lora_tensors):
    found = json.loads(cli("inspect", shelf / "lora.safetensors", "--json").stdout)
    assert found["modules"] == 28 and found["ranks"] == {"4": 28} and found["alphas"] == {"2.0": 28}
    assert found["parameters"] == sum(t.numel() for t in lora_tensors.values())
    assert found["size"] == (shelf / "lora.safetensors").stat().st_size
    assert found["trigger_words"][0] == "red frame" and found["base_hints"] == {"ss_base_model_version": "sd_v1"}
    assert found["roles"] == {
        "attention": 13,
        "cross-attention": 6,
        "convolution": 3,
        "projection": 3,
        "feed-forward": 3,
    }
    assert sum(group["modules"] for group in found["groups"]) == 28


def test_norms_are_those_of_the_dense_updates(shelf, lora_tensors):
    found = inspect(shelf / "lora.safetensors")
    norms = {}
    for key in {k.split(".")[0] for k in lora_tensors}:
        up, down = (lora_tensors[f"{key}.lora_{way}.weight"].flatten(1).double() for way in ("up", "down"))
        norms[key] = float((up @ down * 2.0 / 4).norm())
    assert found.norm == pytest.approx(sum(n * n for n in norms.values()) ** 0.5, rel=1e-5)
    top, size = found.top_modules[0]
    assert norms[top] == pytest.approx(size, rel=1e-5) and size == pytest.approx(max(norms.values()), rel=1e-5)
    text = next(g for g in found.groups if g.name == "text encoder")
    assert text.norm == pytest.approx(next(n for k, n in norms.items() if k.startswith("lora_te")), rel=1e-5)


def test_unknown_keys_and_missing_alphas_are_named(tmp_path, lora_tensors):
    tensors = {k: v for k, v in lora_tensors.items() if not k.endswith(".alpha")} | {"strange.thing": torch.ones(3)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = inspect(tmp_path / "x.safetensors")
    assert found.unknown_keys == ["strange.thing"] and found.no_alpha == 28 and found.alphas == {}
    text = found.to_text()
    assert "strange.thing" in text and "none on 28 (scale 1)" in text


def test_modules_that_need_their_base_are_counted_not_guessed(lora_tensors):
    key = next(k for k in lora_tensors if k.endswith("attn1_to_q.lora_down.weight")).split(".")[0]
    dora = lora_tensors | {f"{key}.dora_scale": torch.ones(48, 1)}
    found = inspect_adapter(adapters.from_state_dict(dora))
    assert found.needs_base == 1 and found.kinds["lora"] == 27
    assert found.norm < inspect_adapter(adapters.from_state_dict(lora_tensors)).norm


def test_other_kinds_have_ranks_and_norms():
    g = torch.Generator().manual_seed(0)
    w1a, w1b, w2a, w2b = (torch.randn(s, generator=g) for s in ((8, 2), (2, 6), (8, 2), (2, 6)))
    key = "lora_unet_mid_block_attentions_0_proj_in"
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    loha = {f"{key}.{name}": t for name, t in zip(names, (w1a, w1b, w2a, w2b), strict=True)}
    found = inspect_adapter(adapters.from_state_dict(loha))
    assert found.kinds == {"loha": 1} and found.ranks == {2: 1}
    assert found.norm == pytest.approx(float(((w1a @ w1b) * (w2a @ w2b)).norm()), rel=1e-5)
