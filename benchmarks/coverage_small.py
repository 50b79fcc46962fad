"""Small models of diffusers' own classes with random values, on which other projects write and load their LoRAs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import diffusers
import torch
from lora_graft.bases import open_base
from safetensors.torch import save_file


class Small(NamedTuple):
    """A small model.

    loader: diffusers' class of LoRA loader, without its ending. kind: class of the model. config: its configuration.
    comfy: ComfyUI's class of model and its configuration; None where it is not asked.
    """

    loader: str
    kind: str
    config: dict[str, Any]
    comfy: tuple[str, dict[str, Any]] | None = None

    @property
    def prefix(self) -> str:
        """What diffusers puts before the model's module names."""
        return "unet." if "UNet" in self.kind else "transformer."


_UNET = {"sample_size": 16, "norm_num_groups": 8, "attention_head_dim": 4}
SMALL = {
    "SD 1.5": Small(
        "StableDiffusion",
        "UNet2DConditionModel",
        _UNET
        | {
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 768,
        },
        (
            "BaseModel",
            {
                "num_res_blocks": [1, 1],
                "channel_mult": [1, 2],
                "transformer_depth": [1, 0],
                "transformer_depth_output": [1, 1, 0, 0],
                "transformer_depth_middle": 1,
            },
        ),
    ),
    "SDXL": Small(
        "StableDiffusionXL",
        "UNet2DConditionModel",
        _UNET
        | {
            "block_out_channels": (32, 64),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 1280 + 6 * 8,
        },
        (
            "BaseModel",
            {
                "num_res_blocks": [2, 2],
                "channel_mult": [1, 2],
                "transformer_depth": [0, 0, 2, 2],
                "transformer_depth_output": [0, 0, 0, 2, 2, 2],
                "transformer_depth_middle": 2,
            },
        ),
    ),
    "SD3": Small(
        "SD3",
        "SD3Transformer2DModel",
        {
            "sample_size": 16,
            "in_channels": 4,
            "num_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "caption_projection_dim": 64,
            "joint_attention_dim": 48,
            "pooled_projection_dim": 32,
            "out_channels": 4,
            "pos_embed_max_size": 16,
        },
        ("SD3", {"depth": 1}),
    ),
    "Flux": Small(
        "Flux",
        "FluxTransformer2DModel",
        {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 48,
            "pooled_projection_dim": 24,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 4, 8),
        },
        ("Flux", {"image_model": "flux", "hidden_size": 32, "depth": 1, "depth_single_blocks": 2}),
    ),
    "Z-Image": Small(
        "ZImage",
        "ZImageTransformer2DModel",
        {"dim": 64, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 48}
        | {"axes_dims": [8, 12, 12], "axes_lens": [32, 32, 32]},
        ("Lumina2", {"dim": 64, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}),
    ),
    "Qwen-Image": Small(
        "QwenImage",
        "QwenImageTransformer2DModel",
        {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 48}
        | {"axes_dims_rope": (4, 6, 6), "in_channels": 16, "out_channels": 4},
        ("QwenImage", {}),
    ),
}


_KEPT: list[TemporaryDirectory] = []  # folders of models, gone at the end


@cache
def network(family: str) -> torch.nn.Module:
    """The model, the same one at every call; copy it before changing it."""
    small, state = SMALL[family], torch.get_rng_state()
    torch.manual_seed(len(family))
    made = getattr(diffusers, small.kind)(**small.config)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.randn(value.shape) * 0.1)
    torch.set_rng_state(state)
    return made.eval()


@cache
def base_of(family: str):
    """(the model as a base of this project, file of its weights under ComfyUI's names)."""
    _KEPT.append(TemporaryDirectory(prefix="coverage-"))
    folder = Path(_KEPT[-1].name)
    network(family).save_pretrained(folder / SMALL[family].prefix[:-1])
    base = open_base(folder)
    weights = {name: base.load(name).contiguous() for name in base.weights()}
    save_file(weights, folder / "canonical.safetensors")
    return base, folder / "canonical.safetensors"
