"""What the front of a module key says."""

from __future__ import annotations

import pytest
from lora_graft.names.keys import BODY, is_text_encoder, parse_key

CASES = [
    ("lora_unet_input_blocks_4_1_proj_in", BODY, "kohya", "kohya", "input_blocks_4_1_proj_in"),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1", "te1", "te-kohya", "kohya", "text_model_encoder_layers_0_mlp_fc1"),
    ("lora_te2_text_projection", "te2", "te-kohya-numbered", "kohya", "text_projection"),
    ("lora_te3_encoder_block_0", "te3", "te-kohya-numbered", "kohya", "encoder_block_0"),
    ("lora_prior_unet_down_blocks_0", "prior", "bare", "kohya", "unet_down_blocks_0"),
    ("lora_prior_te_text_model", "te1", "bare", "kohya", "text_model"),
    ("lora_transformer_single_transformer_blocks_0", BODY, "onetrainer", "kohya", "single_transformer_blocks_0"),
    ("unet.base_model.model.mid_block", BODY, "peft-unet", "peft", "mid_block"),
    ("base_model.model.layers.0.mlp", "", "peft", "peft", "layers.0.mlp"),
    ("transformer.blocks.0.attn1.to_q", BODY, "diffusers", "diffusers", "blocks.0.attn1.to_q"),
    ("transformer_2.blocks.0.attn1.to_q", "denoiser 2", "bare", "diffusers", "blocks.0.attn1.to_q"),
    ("text_encoder.text_model.x", "te1", "diffusers", "diffusers", "text_model.x"),
    ("text_encoder_2.text_model.x", "te2", "diffusers", "diffusers", "text_model.x"),
    ("text_encoders.clip_g.transformer.text_model.x", "te2", "comfy", "comfy", "text_model.x"),
    ("text_encoders.qwen25_7b.model.x", "teqwen25_7b", "comfy", "comfy", "model.x"),
    ("diffusion_model.double_blocks.0.img_attn.qkv", BODY, "comfy", "comfy", "double_blocks.0.img_attn.qkv"),
    ("text_model.encoder.layers.0.mlp.fc1", "te1", "bare", "bare", "text_model.encoder.layers.0.mlp.fc1"),
    ("base_model.model.text_model.encoder.x", "te1", "peft", "peft", "text_model.encoder.x"),
    ("clip_g.transformer.text_model.x", "te2", "bare", "bare", "clip_g.transformer.text_model.x"),
    ("t5xxl.transformer.encoder.x", "te3", "bare", "bare", "t5xxl.transformer.encoder.x"),
    ("double_blocks.0.img_attn.qkv", "", "bare", "bare", "double_blocks.0.img_attn.qkv"),
]


@pytest.mark.parametrize("key, part, style, layout, module", CASES)
def test_a_key_is_taken_apart(key, part, style, layout, module):
    assert parse_key(key) == (part, style, layout, module)
    assert is_text_encoder(key) == part.startswith("te")
