"""Names in two adapters that can mean the same weight, block or model."""

import pytest
from lora_graft.names.alike import BlockNames, block_names, flat, one_family


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lora_unet_input_blocks_4_1_proj_in", "diffusion_model.input_blocks.4.1.proj_in"),
        ("unet.down_blocks.0.attentions.0.proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"),
        ("lora_te1_text_model_x", "text_encoder.text_model.x"),
        ("body.layers.3", "lora_unet_body_layers_3"),
    ],
)
def test_prefix_and_dots_tell_nothing(one, other):
    assert flat(one) == flat(other)


def test_another_text_encoder_is_another_weight():
    assert flat("lora_te1_text_model_x") != flat("lora_te2_text_model_x") != flat("lora_unet_text_model_x")


def test_block_names_tell_families_and_schemes():
    assert block_names(["lora_unet_input_blocks_1_1_a", "unet.mid_block.b"]) == {
        BlockNames("UNet", "checkpoint"),
        BlockNames("UNet", "diffusers"),
    }
    assert block_names(["transformer.single_transformer_blocks.0.a"]) == {BlockNames(None, "diffusers")}
    assert block_names(["lora_unet_layers_3_a"]) == set()


def test_models_that_share_all_names_are_one_family():
    assert one_family(("SDXL", "SSD-1B", "Flux")) == ("SDXL", "Flux")
    assert one_family(("KOALA 700M", "KOALA", "Segmind Vega")) == ("SDXL",)
    assert one_family(()) == ()
