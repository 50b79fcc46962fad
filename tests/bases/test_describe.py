"""Blocks, roles, order; and what family an adapter alone seems to belong to."""

import pytest
from lora_graft.jobs.transfer.plan import items
from lora_graft.names import Names, WeightSlice, describe, guess_adapter_architecture, names_for, style_of
from lora_graft.names.describe import natural

CASES = [
    (
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
        "input_blocks.4.1.transformer_blocks.0",
        "attn1.to_q",
    ),
    ("diffusion_model.middle_block.1.proj_in.weight", "middle_block.1", "proj_in"),
    ("diffusion_model.output_blocks.11.0.out_layers.3.weight", "output_blocks.11.0", "out_layers.3"),
    ("diffusion_model.output_blocks.2.2.conv.bias", "output_blocks.2.2", "conv.bias"),
    ("diffusion_model.input_blocks.0.0.weight", "outside blocks", "input_blocks.0.0"),
    ("diffusion_model.time_embed.0.weight", "outside blocks", "time_embed.0"),
    ("diffusion_model.double_blocks.3.img_mlp.0.weight", "double_blocks.3", "img_mlp.0"),
    ("diffusion_model.joint_blocks.7.x_block.attn.qkv.weight", "joint_blocks.7", "x_block.attn.qkv"),
    ("diffusion_model.blocks.12.cross_attn.k.weight", "blocks.12", "cross_attn.k"),
    ("diffusion_model.model.layers.9.mlp.up_proj.weight", "model.layers.9", "mlp.up_proj"),
    ("clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight", "clip_l.layers.3", "mlp.fc1"),
    ("t5xxl.transformer.encoder.block.5.layer.0.SelfAttention.q.weight", "t5xxl.block.5", "layer.0.SelfAttention.q"),
    ("clip_g.transformer.text_projection.weight", "clip_g", "text_projection"),
]


@pytest.mark.parametrize("name, block, role", CASES)
def test_block_and_role(name, block, role):
    assert describe(name) == (block, role)


def test_items_come_in_natural_order():
    pytest.importorskip("lora_graft.kernels.matching")
    weights = {f"diffusion_model.blocks.{i}.self_attn.q.weight": (4, 2) for i in (10, 2, 1)}

    class Base:
        def weights(self):
            return weights

    found = items(Base())
    assert [item.block for item in found] == ["blocks.1", "blocks.2", "blocks.10"]
    assert [item.position for item in found] == [0, 1, 2]
    assert {(item.role, item.shape) for item in found} == {("self_attn.q", (4, 2))}
    assert natural("a.2.b") < natural("a.10.b")


def test_matching_finds_what_a_smaller_relative_kept(host_maps):
    """SSD-1B keeps 4 of 10 transformer blocks, all 10 of one, and none of the middle: the structure decides those."""
    match = pytest.importorskip("lora_graft.kernels.matching").match

    class Base:
        def __init__(self, family):
            self.shapes = {name: tuple(shape) for name, shape in host_maps[family]["weights"].items()}

        def weights(self):
            return self.shapes

    partner = match(items(Base("SDXL")), items(Base("SSD-1B")), None)
    taken = [name for name in partner.values() if name]
    assert sorted(taken) == sorted(set(taken)) and len(taken) == len(Base("SSD-1B").weights())
    head = "diffusion_model.{}.transformer_blocks.{}.attn1.to_q.weight"
    assert all(partner[head.format("middle_block.1", i)] is None for i in range(10))
    assert all(partner[head.format("output_blocks.2.1", i)] == head.format("output_blocks.2.1", i) for i in range(10))
    kept = [partner[head.format("input_blocks.7.1", i)] for i in range(10)]
    assert [name for name in kept if name] == [head.format("input_blocks.7.1", i) for i in range(4)]


@pytest.mark.parametrize(
    "family",
    [
        "SD 1.5",
        "SD 2.x",
        "SDXL",
        "SSD-1B",
        "Segmind Vega",
        "KOALA",
        "SD3",
        "SD3.5 large",
        "SD3.5 medium",
        "Flux",
        "Z-Image",
        "Qwen-Image",
    ],
)
@pytest.mark.parametrize("style", ["kohya", "kohya-diffusers", "diffusers", "comfy"])
def test_family_of_an_adapter_alone(host_maps, family, style):
    weights = {name: tuple(shape) for name, shape in host_maps[family]["weights"].items()}
    modules = {}
    for key, weight_slice in names_for(weights).aliases.items():
        shape = weights[weight_slice.name]
        if style_of(key, weight_slice) == style and len(shape) == 2 and weight_slice.name.endswith(".weight"):
            modules[key] = (weight_slice.rows[1] if weight_slice.rows else shape[0], shape[1])
    if modules:
        assert guess_adapter_architecture(modules) == family


def test_family_of_other_adapters():
    guess = guess_adapter_architecture
    assert guess({"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}) == "Wan"
    assert guess({"base_model.model.model.layers.0.self_attn.q_proj": (8, 8)}) == "language model"
    assert guess({"lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768)}) == "SD 1.5"
    assert guess({"lora_unet_down_blocks_0_attentions_0_proj_in": None}) == "unknown"
    assert guess({"something_else": (3, 3)}) == "unknown"


def test_old_spellings():
    weight_slice = WeightSlice("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.weight")
    names = names_for({weight_slice.name: (8, 8), "diffusion_model.input_blocks.1.0.in_layers.2.weight": (8, 8, 3, 3)})
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    for key in (
        f"unet.{block}.processor.to_out",
        f"unet.{block}.processor.to_out_lora",
        f"{block}.processor.to_out_lora",
        f"unet.{block}.to_out.0",
        f"unet.base_model.model.{block}.to_out.0",
        f"base_model.model.{block}.to_out.0",
        "model." + weight_slice.name,
        "lora_unet__input_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
        "lora_unet_" + block.replace(".", "_") + "_to_out_0",
    ):
        assert names.resolve(key) == weight_slice, key
    assert names.resolve("unet.nothing.like.it") is None
    text = WeightSlice("clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight")
    names = names_for({text.name: (8, 8)})
    for prefix in (
        "text_encoder.text_model.",
        "text_encoder.",
        "text_encoder.base_model.model.text_model.",
        "base_model.model.text_model.",
    ):
        assert names.resolve(prefix + "encoder.layers.0.mlp.fc1") == text, prefix
    assert names.key_for(WeightSlice("diffusion_model.nowhere.weight"), "comfy") is None


def test_styles():
    own = WeightSlice("diffusion_model.input_blocks.1.1.proj_in.weight")
    assert style_of("lora_unet_input_blocks_1_1_proj_in", own) == "kohya"
    assert style_of("lora_unet_down_blocks_0_attentions_0_proj_in", own) == "kohya-diffusers"
    assert style_of("lora_te2_text_model_encoder_layers_0_mlp_fc1") == "te-kohya-numbered"
    assert style_of("transformer.transformer_blocks.0.attn.to_q") == "diffusers"
    assert style_of("proj_in") == "bare"


def test_names_from_any_dictionary():
    """The host hands over its own maps in the same form."""
    weight_slice = WeightSlice("diffusion_model.a.weight", (2, 3))
    names = Names({"lora_transformer_a": weight_slice, "transformer.a": weight_slice})
    assert names.key_for(weight_slice, "onetrainer") == "lora_transformer_a"
    assert names.key_for(weight_slice, "peft") == "transformer.a"
    assert names.slices("diffusion_model.a.weight") == {(2, 3)}
