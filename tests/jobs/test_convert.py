"""Adapters change their key names and keep their updates, with no base at hand."""

import pytest
import torch
from lora_graft.adapters import from_state_dict
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.jobs.convert import convert
from lora_graft.jobs.names import names_of
from lora_graft.names import known_names, known_weights

RANK = 2
# How each family's LoRAs come from kohya's trainer, and one of its modules under diffusers' name.
FAMILIES = {
    "SD 1.5": (
        "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_k",
        "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k",
        "diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2.to_k",
    ),
    "SD 2.x": (
        "lora_te_text_model_encoder_layers_20_mlp_fc1",
        "text_encoder.text_model.encoder.layers.20.mlp.fc1",
        "text_encoders.clip_h.transformer.text_model.encoder.layers.20.mlp.fc1",
    ),
    "SDXL": (
        "lora_te2_text_model_encoder_layers_31_self_attn_q_proj",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.q_proj",
        "text_encoders.clip_g.transformer.text_model.encoder.layers.31.self_attn.q_proj",
    ),
    "SSD-1B": (
        "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_2",
        "unet.up_blocks.0.attentions.2.transformer_blocks.9.ff.net.2",
        "diffusion_model.output_blocks.2.1.transformer_blocks.9.ff.net.2",
    ),
    "KOALA": (
        "lora_unet_input_blocks_5_1_transformer_blocks_5_attn1_to_v",
        "unet.down_blocks.2.attentions.0.transformer_blocks.5.attn1.to_v",
        "diffusion_model.input_blocks.5.1.transformer_blocks.5.attn1.to_v",
    ),
    "SD3.5 large": (
        "lora_unet_joint_blocks_37_context_block_adaLN_modulation_1",
        "transformer.transformer_blocks.37.norm1_context.linear",
        "diffusion_model.joint_blocks.37.context_block.adaLN_modulation.1",
    ),
    "SD3": (
        "lora_unet_joint_blocks_3_x_block_mlp_fc1",
        "transformer.transformer_blocks.3.ff.net.0.proj",
        "diffusion_model.joint_blocks.3.x_block.mlp.fc1",
    ),
    "Flux": (
        "lora_unet_single_blocks_37_linear2",
        "transformer.single_transformer_blocks.37.proj_out",
        "diffusion_model.single_blocks.37.linear2",
    ),
}


def trained(name):
    """Whether kohya trains this weight by default: matrices inside blocks, no tables of embeddings."""
    inside = any(part in name for part in ("block", ".layers."))
    return inside and name.endswith(".weight") and "embeddings" not in name and "relative_attention" not in name


def kohya(architecture):
    """A LoRA on every block of a model as kohya's trainer would name it; T5 left out."""
    names, generator, tensors = known_names(architecture), torch.Generator().manual_seed(1), {}
    for name, weight_slice in {
        weight_slice.name: weight_slice._replace(rows=None, swap=False) for weight_slice in names.aliases.values()
    }.items():
        shape = known_weights(architecture)[name]
        if len(shape) < 2 or not trained(name) or name.startswith("t5xxl."):
            continue
        key = names.layout_key(weight_slice, "kohya") or names.layout_key(weight_slice._replace(swap=True), "kohya")
        ones = (1,) * (len(shape) - 2)
        tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], RANK, *ones, generator=generator)
        tensors[f"{key}.lora_down.weight"] = torch.randn(RANK, *shape[1:], generator=generator)
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    return from_state_dict(tensors, metadata={}, file="some/lora.safetensors")


def distance(one, other):
    """Relative distance of two updates, seen through four random vectors."""
    a, b = one.low_rank(), other.low_rank()
    vectors = torch.randn(b.down.shape[1], 4, generator=torch.Generator().manual_seed(2))
    expected = b.up @ (b.down @ vectors)
    return float((a.up @ (a.down @ vectors) - expected).norm() / expected.norm())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_there_and_back_without_a_base(architecture):
    adapter = kohya(architecture)
    ours, theirs, host = FAMILIES[architecture]
    assert ours in adapter.modules and len(adapter.modules) > 190
    for layout, key in (("diffusers", theirs), ("comfy", host)):
        there = convert(adapter, layout)
        assert there.layout == layout and key in there.modules
        assert not any(k.startswith("lora_") for k in there.modules)
        back = convert(there, "kohya")
        assert back.modules.keys() == adapter.modules.keys()
        some = list(adapter.modules)[::9]
        assert max(distance(back.modules[key], adapter.modules[key]) for key in some) < 1e-5


@pytest.mark.parametrize(
    "architecture, whole, slices, widths",
    [
        ("Flux", "lora_unet_double_blocks_7_txt_attn_qkv", "transformer_blocks.7.attn.add_{}_proj", (3072,) * 3),
        ("Flux", "lora_unet_single_blocks_7_linear1", "single_transformer_blocks.7.attn.to_{}", (3072,) * 3),
        ("SD3", "lora_unet_joint_blocks_7_x_block_attn_qkv", "transformer_blocks.7.attn.to_{}", (1536,) * 3),
        ("SD3.5 medium", "lora_unet_joint_blocks_7_x_block_attn2_qkv", "transformer_blocks.7.attn2.to_{}", (1536,) * 3),
    ],
)
def test_fused_weights_are_cut_and_joined(architecture, whole, slices, widths):
    adapter = kohya(architecture)
    update = adapter.modules[whole].delta()
    there = convert(adapter, "diffusers")
    start = 0
    for letter, rows in zip("qkv", widths, strict=True):
        part = there.modules["transformer." + slices.format(letter)]
        torch.testing.assert_close(part.delta(), update[start : start + rows], rtol=1e-4, atol=1e-5)
        start += rows
    if "linear1" in whole:
        part = there.modules["transformer.single_transformer_blocks.7.proj_mlp"]
        torch.testing.assert_close(part.delta(), update[start:], rtol=1e-4, atol=1e-5)
    again = convert(convert(there, "comfy"), "kohya").modules[whole]
    torch.testing.assert_close(again.delta(), update, rtol=1e-4, atol=1e-5)


def test_the_last_modulation_of_sd3_is_exchanged():
    """Diffusers keeps (scale, shift) where the checkpoint has (shift, scale), in the last block only."""
    adapter = kohya("SD3")
    there = convert(adapter, "diffusers")
    for block, exchanged in ((22, False), (23, True)):
        update = adapter.modules[f"lora_unet_joint_blocks_{block}_context_block_adaLN_modulation_1"].delta()
        found = there.modules[f"transformer.transformer_blocks.{block}.norm1_context.linear"].delta()
        expected = update.roll(update.shape[0] // 2, 0) if exchanged else update
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_slices_in_the_file_become_one():
    """A diffusers LoRA on q and v alone: the fused weight gets zeros for k."""
    key = "transformer.transformer_blocks.0.attn.to_{}.lora_{}.weight"
    tensors = {key.format(p, "B"): torch.randn(1536, 4) for p in "qv"}
    tensors |= {key.format(p, "A"): torch.randn(4, 1536) for p in "qv"}
    adapter = from_state_dict(tensors, metadata={"modelspec.architecture": "stable-diffusion-3-m/lora"})
    (module,) = convert(adapter, "kohya").modules.values()
    assert module.key == "lora_unet_joint_blocks_0_x_block_attn_qkv"
    q, k, v = module.delta().chunk(3)
    assert not k.any()
    for found, letter in ((q, "q"), (v, "v")):
        expected = tensors[key.format(letter, "B")] @ tensors[key.format(letter, "A")]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def lora(key, m, n, metadata=None):
    tensors = {f"{key}.lora_up.weight": torch.ones(m, 1), f"{key}.lora_down.weight": torch.ones(1, n)}
    return from_state_dict(tensors, metadata=metadata or {}, file="some/lora.safetensors")


@pytest.mark.parametrize(
    "adapter, says",
    [
        (lora("something.else", 8, 8), ("cannot be told", "something.else")),
        (lora("diffusion_model.blocks.0.self_attn.q", 5120, 5120), ("Wan",)),
        (lora("lora_unet_joint_blocks_0_x_block_sixth_sense", 8, 8), ("SD3", "sixth_sense", "no such module")),
        (lora("lora_unet_single_blocks_0_linear1", 70, 10), ("Flux", "sizes")),
    ],
)
def test_an_unknown_model_has_to_be_given(adapter, says):
    with pytest.raises(AdapterError) as caught:
        convert(adapter, "diffusers")
    for part in (*says, "some/lora.safetensors", "--base"):
        assert part in str(caught.value)
    with pytest.raises(AdapterError):
        names_of(adapter)


def test_nothing_to_change():
    """An adapter that has the layout already, of a model nobody knows, stays as it is."""
    adapter = lora("diffusion_model.blocks.0.self_attn.q", 5120, 5120, {"title": "mine"})
    for layout in ("comfy", "same"):
        same = convert(adapter, layout)
        assert same.modules.keys() == adapter.modules.keys() and same.metadata == adapter.metadata
    with pytest.raises(SettingsError):
        convert(kohya("SD 1.5"), "tarot")


def test_a_base_has_the_last_word():
    """Given a base, its names are used and not those the adapter points to."""

    class Base:
        names = known_names("KOALA")

        def weights(self):
            return known_weights("KOALA")

    key = "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"
    with pytest.raises(AdapterError, match="SDXL or SSD-1B or KOALA, whose key names differ"):
        convert(lora(key, 640, 2048), "comfy")
    adapter = lora(key, 640, 2048, {"ss_base_model_version": "sdxl_base_v1-0"})
    assert list(convert(adapter, "comfy").modules) == [
        "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k"
    ]
    assert list(convert(adapter, "comfy", Base()).modules) == [
        "diffusion_model.input_blocks.3.1.transformer_blocks.1.attn2.to_k"
    ]
