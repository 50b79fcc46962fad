"""Stable Diffusion 3 and 3.5: joint_blocks <-> diffusers' transformer_blocks, q/k/v as slices of the fused qkv."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Row, Table, fused, rows_of
from .weight_slice import Shape, StoredPart, WeightSlice

_BLOCK = (
    *fused("x_block.attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    *fused("context_block.attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    *fused("x_block.attn2.qkv", "attn2.to_q", "attn2.to_k", "attn2.to_v"),
    *rows_of(
        "attn.to_out.0 = x_block.attn.proj",
        "attn.to_add_out = context_block.attn.proj",
        "attn2.to_out.0 = x_block.attn2.proj",
        "attn.norm_q = x_block.attn.ln_q",
        "attn.norm_k = x_block.attn.ln_k",
        "attn2.norm_q = x_block.attn2.ln_q",
        "attn2.norm_k = x_block.attn2.ln_k",
        "attn.norm_added_q = context_block.attn.ln_q",
        "attn.norm_added_k = context_block.attn.ln_k",
        "norm1.linear = x_block.adaLN_modulation.1",
        "ff.net.0.proj = x_block.mlp.fc1",
        "ff.net.2 = x_block.mlp.fc2",
        "ff_context.net.0.proj = context_block.mlp.fc1",
        "ff_context.net.2 = context_block.mlp.fc2",
    ),
    Row("norm1_context.linear", "context_block.adaLN_modulation.1", swap=True),  # in the last block only
)

_STEM = (
    *rows_of(
        "context_embedder = context_embedder",
        "pos_embed.proj = x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1 = t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2 = t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1 = y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2 = y_embedder.mlp.2",
        "proj_out = final_layer.linear",
    ),
    Row("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
)

TABLE = Table({"joint_blocks": ("transformer_blocks", _BLOCK)}, _STEM, {"pos_embed.pos_embed": "pos_embed"})


def is_native(names: Mapping[str, Shape]) -> bool:
    return any(name.startswith("joint_blocks.0.x_block.") for name in names)


def is_diffusers(names: Mapping[str, Shape]) -> bool:
    return "pos_embed.proj.weight" in names and any(".attn.add_q_proj." in name for name in names)


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    return table.aliases(native, TABLE, lambda rows: [rows // 3] * 3)


def parts(diffusers: Mapping[str, Shape]) -> dict[str, list[StoredPart]]:
    """Checkpoint tensor name -> its pieces among diffusers' tensors."""
    return table.parts(diffusers, TABLE)
