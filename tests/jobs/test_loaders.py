"""What is said of loaders that skip or misread a file, and what is written so that they do not."""

import json

import pytest
import torch
from lora_graft.adapters import from_state_dict
from lora_graft.adapters.alphas import uneven_alphas, with_one_alpha
from lora_graft.jobs.convert import convert
from lora_graft.jobs.inspect import inspect_adapter
from lora_graft.jobs.loaders import unread
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
PEFT, KOHYA = (".lora_B.weight", ".lora_A.weight"), (".lora_up.weight", ".lora_down.weight")


def lora(ranks, prefix="unet.", suffixes=PEFT, alphas=None, dtype=torch.float32, width=320):
    """A LoRA for SD 1.5: to_q, to_k … of one attention with these ranks and alphas."""
    generator, tensors = torch.Generator().manual_seed(1), {}
    for number, (part, rank) in enumerate(zip(("to_q", "to_k", "to_v"), ranks, strict=False)):
        key = f"{prefix}{BLOCK}.attn1.{part}"
        key = key.replace(".", "_") if prefix.startswith("lora_") else key
        tensors[key + suffixes[0]] = torch.randn(width, rank, generator=generator).to(dtype)
        tensors[key + suffixes[1]] = torch.randn(rank, width, generator=generator).to(dtype)
        if alphas:
            tensors[key + ".alpha"] = torch.tensor(float(alphas[number]))
    return from_state_dict(tensors, {"ss_base_model_version": "sd_v1"}, file="some/lora.safetensors")


def same(one, other):
    for (a, first), (b, second) in zip(sorted(one.modules.items()), sorted(other.modules.items()), strict=True):
        torch.testing.assert_close(first.delta(), second.delta(), rtol=1e-5, atol=1e-5, msg=f"{a} {b}")


def alphas_of(adapter):
    return {module.alpha for module in adapter.modules.values()}


def test_mixed_ranks_get_one_alpha():
    """Of ranks 4, 2 and 4 without alphas, kohya's layout gets alpha 4 everywhere, as diffusers' loader assumes."""
    there = convert(lora((4, 2, 4), dtype=torch.bfloat16), "kohya")
    assert alphas_of(there) == {4.0} and not unread(there)
    same(there, lora((4, 2, 4), dtype=torch.bfloat16))


def test_what_would_round_stays_and_is_said():
    adapter = lora((4, 3, 4), dtype=torch.bfloat16)
    there = convert(adapter, "kohya")
    assert alphas_of(there) == {4.0, 3.0}
    (note,) = unread(there)
    assert "1 here have another" in note and "to_k" in note and "diffusers layout" in note
    for key, module in adapter.modules.items():  # not one bit changed
        found = there.modules["lora_unet_" + key.removeprefix("unet.").replace(".", "_")]
        assert torch.equal(found.tensors[KOHYA[0]], module.tensors[PEFT[0]])
    assert alphas_of(convert(lora((4, 3, 4)), "kohya")) == {4.0}  # float32 has room


@pytest.mark.parametrize("alphas", [(0.0, 2.0, 2.0), (-2.0, 2.0, 2.0), (2.0, 2.0, 2e30)])
def test_odd_alphas_keep_the_update(alphas):
    adapter = lora((2, 2, 2), "lora_unet_", KOHYA, alphas)
    one = with_one_alpha(adapter.modules)
    for key, module in adapter.modules.items():
        torch.testing.assert_close(one[key].delta(), module.delta())


def test_merged_and_resized_files_keep_one_alpha():
    """A file whose alpha is 1 for every rank: what is made anew has alpha 1 too."""
    adapter = lora((4, 2, 4), "lora_unet_", KOHYA, (1, 1, 1))
    merged = merge([(adapter, 0.5, 0.5)] * 2, MergeSettings(method="concat")).adapter
    cut = resize(adapter, ResizeSettings("rank", 3)).adapter
    assert {m.rank for m in merged.modules.values()} == {8, 4} and {m.rank for m in cut.modules.values()} == {3, 2}
    assert alphas_of(merged) == alphas_of(cut) == {1.0}
    same(merged, adapter)
    mixed = merge([(adapter, 1.0, 1.0), (lora((4,), "lora_unet_", KOHYA, (8,)), 1.0, 1.0)], MergeSettings("concat"))
    assert not uneven_alphas(mixed.adapter.modules)


def transformer(module, width, layout="diffusers"):
    key = {"diffusers": "transformer.", "peft": "base_model.model."}[layout] + module
    return from_state_dict({key + PEFT[0]: torch.ones(width, 1), key + PEFT[1]: torch.ones(1, width)})


@pytest.mark.parametrize(
    "adapter, family",
    [
        (lora((2,)), "SD 1.5"),
        (transformer("blocks.0.attn1.to_q", 1536), "Wan"),
        (transformer("transformer_blocks.27.attn1.to_q", 2048), "LTX-Video"),
        (transformer("single_transformer_blocks.39.attn.to_q", 3072), "HunyuanVideo"),
        (transformer("joint_transformer_blocks.0.attn.to_q", 3072), None),
        (transformer("single_transformer_blocks.37.attn.to_q", 3072, "peft"), "Flux or Chroma"),
        (transformer("single_transformer_blocks.37.attn.to_q", 3072), None),
        (transformer("transformer_blocks.23.attn.to_q", 1536, "peft"), None),
        (transformer("layers.0.attention.to_q", 3840), None),
        (lora((2,), "lora_unet_", KOHYA, (1,)), None),
    ],
)
def test_what_comfyui_skips_is_said(adapter, family):
    notes = unread(adapter)
    assert [f"files of {family} " in note and "comfy and kohya" in note for note in notes] == ([True] if family else [])


def test_magnitudes_that_comfyui_drops_are_said():
    key = "transformer.single_transformer_blocks.37.attn.to_q"
    tensors = {key + PEFT[0]: torch.ones(3072, 1), key + PEFT[1]: torch.ones(1, 3072)}
    (note,) = unread(from_state_dict(tensors | {key + ".lora_magnitude_vector": torch.ones(3072)}))
    assert "plain LoRA (1 modules)" in note


def test_text_encoders_get_one_alpha_beside_a_transformer():
    """Flux: the blocks keep their own alphas, which diffusers reads; those of CLIP become one."""
    tensors = {}
    for number, part in enumerate(("q_proj", "k_proj", "v_proj")):
        key = f"text_encoder.text_model.encoder.layers.0.self_attn.{part}"
        tensors |= {key + PEFT[0]: torch.ones(768, 2 << number % 2), key + PEFT[1]: torch.ones(2 << number % 2, 768)}
    for part, rank in (("attn.to_q", 2), ("proj_out", 4)):
        key = f"transformer.single_transformer_blocks.37.{part}"
        columns = 3072 if "to_q" in part else 15360
        tensors |= {key + PEFT[0]: torch.ones(3072, rank), key + PEFT[1]: torch.ones(rank, columns)}
    there = convert(from_state_dict(tensors, {"ss_base_model_version": "flux1"}), "kohya")
    assert {m.alpha for k, m in there.modules.items() if k.startswith("lora_te")} == {2.0}
    assert {m.alpha for k, m in there.modules.items() if k.startswith("lora_unet_")} == {2.0, 4.0}


def test_a_scale_that_comfyui_passes_over_is_said():
    key = "transformer.single_transformer_blocks.37.attn.to_q"
    tensors = {key + PEFT[0]: torch.ones(3072, 2), key + PEFT[1]: torch.ones(2, 3072)}
    config = {"transformer.r": 2, "transformer.lora_alpha": 1}
    adapter = from_state_dict(tensors, {"lora_adapter_metadata": json.dumps(config)})
    (note,) = unread(adapter)
    assert "strength of 1 modules" in note and note in inspect_adapter(adapter).to_text()
    assert not unread(convert(adapter, "comfy"))


def test_kinds_that_peft_cannot_load_together_are_said():
    key = "base_model.model.transformer_blocks.23.attn."
    tensors = {f"{key}to_q{PEFT[0]}": torch.ones(1536, 1), f"{key}to_q{PEFT[1]}": torch.ones(1, 1536)}
    tensors |= {f"{key}to_k.lokr_w1": torch.ones(4, 4), f"{key}to_k.lokr_w2": torch.ones(384, 384)}
    (note,) = unread(from_state_dict(tensors))
    assert "lokr and lora" in note
