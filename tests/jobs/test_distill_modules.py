"""Which weights learn, and what they start from."""

from __future__ import annotations

import re

import pytest
import torch
from lora_graft import adapters
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.distill.target_modules import target_modules, warm_starts

BLOCK = "diffusion_model.joint_blocks.0.x_block."


def chosen(lab, where, lora="frame_a", target="s", base="a"):
    return target_modules(lab.model(target), where, [lab.family.adapter(lora)], [lab.model(base).base])


def roles(names):
    return {name.split("x_block.")[-1].removesuffix(".weight") for name in names if "x_block." in name}


def test_auto_takes_the_weights_of_the_adapter(lab):
    names, sentence = chosen(lab, "auto")
    assert roles(names) == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1"} and len(names) == 15
    assert "15 weights that the adapter changes" in sentence
    assert names == [name for name in names if name in lab.model("s").learnable()]


def test_auto_takes_those_of_all_adapters_once(lab):
    frame, base = lab.family.adapter("frame_a"), lab.model("a").base
    part = frame.with_modules(dict(list(frame.modules.items())[:2]))
    rest = frame.with_modules(dict(list(frame.modules.items())[1:4]))
    names, _ = target_modules(lab.model("s"), "auto", [part, rest], [base, base])
    assert len(names) == len(set(names)) == 4


def test_a_block_of_zeros_stays_dead(lab):
    """Base C has zeros where a block was cut out."""
    names, sentence = chosen(lab, "auto", target="c")
    assert len(names) == 10 and "5 more are all zero and left out" in sentence
    assert not [name for name in names if "joint_blocks.1." in name]


def test_auto_on_another_architecture(lab):
    names, sentence = chosen(lab, "auto", lora="frame_a", base="a", target="s")
    target = lab.model("s")
    target.learnable = lambda: {
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (8, 8),
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2.weight": (8, 8),
        "diffusion_model.input_blocks.1.0.in_layers.2.weight": (8, 8, 3, 3),
        "diffusion_model.time_embed.0.weight": (8, 8),
    }
    target.base.load = lambda name: torch.ones(2)
    names, sentence = target_modules(target, "auto", [lab.family.adapter("frame_a")], [lab.model("a").base])
    assert [name.split(".")[-2] for name in names] == ["to_q", "2"] and "attention + feed-forward" in sentence
    names, _ = target_modules(target, "attention", [], [])
    assert [name.split(".")[-2] for name in names] == ["to_q"]
    names, _ = target_modules(target, "linear + convolution", [], [])
    assert "diffusion_model.input_blocks.1.0.in_layers.2.weight" in names and len(names) == 3


@pytest.mark.parametrize(
    ("where", "has", "lacks"),
    [
        ("attention", {"attn.qkv", "attn.proj"}, {"mlp.fc1", "adaLN_modulation.1"}),
        ("attention + feed-forward", {"attn.qkv", "mlp.fc1", "mlp.fc2"}, {"adaLN_modulation.1"}),
        ("linear", {"attn.qkv", "mlp.fc1", "adaLN_modulation.1"}, set()),
    ],
)
def test_by_role(lab, where, has, lacks):
    names, sentence = chosen(lab, where)
    assert has <= roles(names) and not lacks & roles(names) and where in sentence
    assert all(len(lab.model("s").learnable()[name]) == 2 for name in names)
    assert not [name for name in names if "x_embedder" in name or "final_layer" in name]


def test_convolutions_only_when_asked_for(lab):
    shapes = lab.model("s").learnable()
    names, _ = chosen(lab, "linear + convolution")
    assert set(chosen(lab, "linear")[0]) <= set(names)
    assert all(len(shapes[name]) in (2, 4) for name in names)


def test_unknown_choice_and_nothing_to_choose(lab):
    with pytest.raises(SettingsError, match="unknown choice of modules 'all'"):
        chosen(lab, "all")
    target = lab.model("s")
    target.learnable = lambda: {"diffusion_model.conv.weight": (4, 4, 3, 3)}
    with pytest.raises(SettingsError, match="no weights of the kind 'attention'"):
        target_modules(target, "attention", [], [])


def test_starts_from_a_lora_of_the_target(lab):
    target, lora = lab.model("s"), lab.family.adapter("frame_s")
    names, _ = chosen(lab, "auto", lora="frame_s")
    found = warm_starts(lora, target, names)
    assert set(found) == set(names)
    for key, module in lora.modules.items():
        name = target.base.names.resolve(key).name
        assert torch.allclose(found[name].dense(), module.delta(), atol=1e-6)
    assert warm_starts(None, target, names) == {}


def lora(slices, rank=2, width=192, rows=192):
    dice, tensors = torch.Generator().manual_seed(3), {}
    for key in slices:
        tensors[f"{key}.lora_A.weight"] = torch.randn(rank, width, generator=dice)
        tensors[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=dice)
    return adapters.from_state_dict(tensors)


def test_slices_of_a_fused_weight_are_put_together(lab):
    target = lab.model("s")
    keys = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qv"]
    given = lora(keys)
    found = warm_starts(given, target, [BLOCK + "attn.qkv.weight"])
    dense = found[BLOCK + "attn.qkv.weight"].dense()
    assert dense.shape == (576, 192)
    for key, first in zip(keys, (0, 384), strict=True):
        assert torch.allclose(dense[first : first + 192], given.modules[key].delta(), atol=1e-5)
    assert not dense[192:384].any()


def test_a_start_of_the_wrong_shape(lab):
    given = lora(["transformer.transformer_blocks.0.attn.to_q"], rows=256)
    with pytest.raises(AdapterError, match="does not fit the weight") as caught:
        warm_starts(given, lab.model("s"), [BLOCK + "attn.qkv.weight"])
    assert "to_q" in str(caught.value)


def test_a_start_of_another_architecture(lab):
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    given = adapters.from_state_dict(
        {key + ".lora_up.weight": torch.ones(8, 2), key + ".lora_down.weight": torch.ones(2, 8)}
    )
    with pytest.raises(AdapterError, match="changes none of the weights") as caught:
        warm_starts(given, lab.model("s"), [BLOCK + "attn.qkv.weight"])
    assert "adapter of the target" in caught.value.hint


def test_a_warm_start_is_where_learning_begins(lab):
    """The frame trained on the target begins with most of the effect; cut to rank 2 the report says what was lost."""

    def first(rank, warm_start):
        learnt = distill(
            lab.dataset(),
            lab.teacher("frame_a"),
            lab.model("s"),
            [lab.family.adapter("frame_a")],
            Distillation(rank=rank, noisy_latents=8, training=Training(1, batch=4, accumulation=1)),
            warm_start=warm_start,
        )
        return learnt.report

    warm, cold = first(8, lab.family.adapter("frame_s")), first(8, None)
    assert cold.checks[0][1] == 0 and warm.checks[0][1] > 0.3
    assert "Started from nothing." in cold.to_markdown()
    assert "Started from family_frame_s.safetensors." in warm.to_markdown()
    cut = first(2, lab.family.adapter("frame_s"))
    lost = re.search(r"with an error of up to ([\d.]+)%", cut.to_markdown())
    assert float(lost[1]) > 5
