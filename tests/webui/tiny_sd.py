"""A checkpoint of Stable Diffusion 1.5's kind that the hosts load and draw with: every part random, the UNet one level.

The VAE has SD 1.5's full size, since Forge Neo takes no other; the text encoder has CLIP-L's width and few layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, CONTEXT, TIME = 320, 768, 1280
Shapes = Iterator[tuple[str, tuple[int, ...]]]
# Beside the file under its name: Automatic1111 never guesses a structure. {} is a folder with CLIP's configuration.
CONFIG = """\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 64
    channels: 4
    conditioning_key: crossattn
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {{image_size: 32, in_channels: 4, out_channels: 4, model_channels: 320, attention_resolutions: [1],
        num_res_blocks: 1, channel_mult: [1], num_heads: 8, use_spatial_transformer: true, transformer_depth: 1,
        context_dim: 768, use_checkpoint: false, legacy: false}}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig: {{double_z: true, z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3, ch: 128,
          ch_mult: [1, 2, 4, 4], num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}}
        lossconfig: {{target: torch.nn.Identity}}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params: {{version: {}}}
"""


def checkpoint(seed: int, layers: int, near: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All tensors by the checkpoint's names, fp16; with `near` a relative of that one: its weights and a little noise.

    layers: of the text encoder.
    """
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in _shapes(layers):
        if len(shape) == 1:
            value = torch.full(shape, float(name.endswith("weight")))
        else:
            fan = torch.Size(shape[1:]).numel() if "embedding" not in name else 2500
            value = torch.randn(shape, generator=draw) * (0.7 / fan) ** 0.5
        if near is not None:
            value = near[name].float() + 0.05 * value * (len(shape) > 1)
        tensors[name] = value.half()
    return tensors


def lora(seed: int, strength: float = 1.0, rank: int = 4) -> dict[str, Tensor]:
    """A LoRA of the UNet's attention by kohya's names."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in ("down_blocks_0", "mid_block", "up_blocks_0"):
        for attention in ("attn1", "attn2"):
            for layer in ("to_q", "to_v", "to_out_0"):
                fan = CONTEXT if attention == "attn2" and layer == "to_v" else WIDTH
                name = f"lora_unet_{block}_attentions_0_transformer_blocks_0_{attention}_{layer}"
                tensors[f"{name}.lora_up.weight"] = torch.randn(WIDTH, rank, generator=draw) * strength
                tensors[f"{name}.lora_down.weight"] = torch.randn(rank, fan, generator=draw) / fan**0.5
                tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


def write(folder: Path, clip: Path, layers: int) -> tuple[Path, Path]:
    """old.safetensors and new.safetensors, relatives, with their configurations.

    clip: a folder with CLIP's tokenizer and configuration, for Automatic1111.
    """
    old = checkpoint(7, layers)
    files = folder / "old.safetensors", folder / "new.safetensors"
    for file, tensors in zip(files, (old, checkpoint(8, layers, old)), strict=True):
        save_file(tensors, file)
        file.with_suffix(".yaml").write_text(CONFIG.format(clip), encoding="utf-8")
    return files


def _shapes(layers: int) -> Shapes:
    for part, shapes in (
        ("model.diffusion_model", _unet()),
        ("first_stage_model", _vae()),
        ("cond_stage_model.transformer.text_model", _clip(layers)),
    ):
        yield from ((f"{part}.{name}", shape) for name, shape in shapes)


def _layer(name: str, *shape: int) -> Shapes:
    """A weight and a bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _unet() -> Shapes:
    yield from _layer("time_embed.0", TIME, WIDTH)
    yield from _layer("time_embed.2", TIME, TIME)
    yield from _layer("input_blocks.0.0", WIDTH, 4, 3, 3)
    for block, width in (("input_blocks.1", WIDTH), ("output_blocks.0", 2 * WIDTH), ("output_blocks.1", 2 * WIDTH)):
        yield from _residual(f"{block}.0", width)
        yield from _attention(f"{block}.1")
    yield from _residual("middle_block.0", WIDTH)
    yield from _attention("middle_block.1")
    yield from _residual("middle_block.2", WIDTH)
    yield from _layer("out.0", WIDTH)
    yield from _layer("out.2", 4, WIDTH, 3, 3)


def _residual(name: str, width: int) -> Shapes:
    yield from _layer(f"{name}.in_layers.0", width)
    yield from _layer(f"{name}.in_layers.2", WIDTH, width, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", WIDTH, TIME)
    yield from _layer(f"{name}.out_layers.0", WIDTH)
    yield from _layer(f"{name}.out_layers.3", WIDTH, WIDTH, 3, 3)
    if width != WIDTH:
        yield from _layer(f"{name}.skip_connection", WIDTH, width, 1, 1)


def _attention(name: str) -> Shapes:
    yield from _layer(f"{name}.norm", WIDTH)
    yield from _layer(f"{name}.proj_in", WIDTH, WIDTH, 1, 1)
    inner = f"{name}.transformer_blocks.0"
    for attention, context in (("attn1", WIDTH), ("attn2", CONTEXT)):
        yield f"{inner}.{attention}.to_q.weight", (WIDTH, WIDTH)
        yield f"{inner}.{attention}.to_k.weight", (WIDTH, context)
        yield f"{inner}.{attention}.to_v.weight", (WIDTH, context)
        yield from _layer(f"{inner}.{attention}.to_out.0", WIDTH, WIDTH)
    yield from _layer(f"{inner}.ff.net.0.proj", 8 * WIDTH, WIDTH)
    yield from _layer(f"{inner}.ff.net.2", WIDTH, 4 * WIDTH)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _layer(f"{inner}.{norm}", WIDTH)
    yield from _layer(f"{name}.proj_out", WIDTH, WIDTH, 1, 1)


def _vae() -> Shapes:
    widths = (128, 256, 512, 512)
    yield from _layer("encoder.conv_in", 128, 3, 3, 3)
    came = 128
    for level, width in enumerate(widths):
        for block in range(2):
            yield from _vae_block(f"encoder.down.{level}.block.{block}", came, width)
            came = width
        if level < 3:
            yield from _layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_end("encoder", 512, 8)
    yield from _layer("decoder.conv_in", 512, 4, 3, 3)
    for level, width in reversed(list(enumerate(widths))):
        for block in range(3):
            yield from _vae_block(f"decoder.up.{level}.block.{block}", came, width)
            came = width
        if level > 0:
            yield from _layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _vae_end("decoder", 128, 3)
    yield from _layer("quant_conv", 8, 8, 1, 1)
    yield from _layer("post_quant_conv", 4, 4, 1, 1)


def _vae_end(name: str, width: int, channels: int) -> Shapes:
    for block in ("block_1", "block_2"):
        yield from _vae_block(f"{name}.mid.{block}", 512, 512)
    yield from _layer(f"{name}.mid.attn_1.norm", 512)
    for layer in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{name}.mid.attn_1.{layer}", 512, 512, 1, 1)
    yield from _layer(f"{name}.norm_out", width)
    yield from _layer(f"{name}.conv_out", channels, width, 3, 3)


def _vae_block(name: str, width: int, out: int) -> Shapes:
    yield from _layer(f"{name}.norm1", width)
    yield from _layer(f"{name}.conv1", out, width, 3, 3)
    yield from _layer(f"{name}.norm2", out)
    yield from _layer(f"{name}.conv2", out, out, 3, 3)
    if width != out:
        yield from _layer(f"{name}.nin_shortcut", out, width, 1, 1)


def _clip(layers: int) -> Shapes:
    yield "embeddings.token_embedding.weight", (49408, CONTEXT)
    yield "embeddings.position_embedding.weight", (77, CONTEXT)
    for layer in range(layers):
        inner = f"encoder.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _layer(f"{inner}.self_attn.{projection}", CONTEXT, CONTEXT)
        yield from _layer(f"{inner}.layer_norm1", CONTEXT)
        yield from _layer(f"{inner}.mlp.fc1", 4 * CONTEXT, CONTEXT)
        yield from _layer(f"{inner}.mlp.fc2", CONTEXT, 4 * CONTEXT)
        yield from _layer(f"{inner}.layer_norm2", CONTEXT)
    yield from _layer("final_layer_norm", CONTEXT)
