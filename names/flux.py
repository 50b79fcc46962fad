"""Flux.1 dev and schnell: double_blocks and single_blocks <-> diffusers, slices of the fused qkv and linear1."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Row, Table, fused, rows_of
from .weight_slice import Shape, StoredPart, WeightSlice

_DOUBLE = (
    *fused("img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    *fused("txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    *rows_of(
        "attn.to_out.0 = img_attn.proj",
        "attn.to_add_out = txt_attn.proj",
        "norm1.linear = img_mod.lin",
        "norm1_context.linear = txt_mod.lin",
        "ff.net.0.proj = img_mlp.0",
        "ff.net.2 = img_mlp.2",
        "ff_context.net.0.proj = txt_mlp.0",
        "ff_context.net.2 = txt_mlp.2",
        "attn.norm_q = img_attn.norm.query_norm",
        "attn.norm_k = img_attn.norm.key_norm",
        "attn.norm_added_q = txt_attn.norm.query_norm",
        "attn.norm_added_k = txt_attn.norm.key_norm",
    ),
    Row("ff.linear_in", "img_mlp.0", alias_only=True),
    Row("ff.linear_out", "img_mlp.2", alias_only=True),
    Row("ff_context.linear_in", "txt_mlp.0", alias_only=True),
    Row("ff_context.linear_out", "txt_mlp.2", alias_only=True),
)

_SINGLE = (
    *fused("linear1", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    *rows_of(
        "norm.linear = modulation.lin",
        "proj_out = linear2",
        "attn.norm_q = norm.query_norm",
        "attn.norm_k = norm.key_norm",
    ),
    Row("attn.to_qkv_mlp_proj", "linear1", alias_only=True),
    Row("attn.to_out", "linear2", alias_only=True),
)

_STEM = (
    *rows_of(
        "x_embedder = img_in",
        "context_embedder = txt_in",
        "time_text_embed.timestep_embedder.linear_1 = time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2 = time_in.out_layer",
        "time_text_embed.text_embedder.linear_1 = vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2 = vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1 = guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2 = guidance_in.out_layer",
        "proj_out = final_layer.linear",
    ),
    Row("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
    Row("controlnet_x_embedder", "pos_embed_input", alias_only=True),
)

TABLE = Table(
    {
        "double_blocks": ("transformer_blocks", _DOUBLE),
        "single_blocks": ("single_transformer_blocks", _SINGLE),
    },
    _STEM,
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return any(name.startswith(("double_blocks.0.img_attn.qkv", "single_blocks.0.linear1")) for name in names)


def is_diffusers(names: Mapping[str, Shape]) -> bool:
    return any(name.startswith("single_transformer_blocks.0.proj_mlp.") for name in names)


def hidden_size(native: Mapping[str, Shape]) -> int:
    """Width of the residual stream."""
    for name, shape in native.items():
        if name.endswith((".qkv.weight", ".linear1.weight")):
            return shape[1]
    return 0


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    width = hidden_size(native)

    def lengths(rows: int) -> list[int]:
        return [width] * 3 + [rows - 3 * width]

    return table.aliases(native, TABLE, lengths)


def parts(diffusers: Mapping[str, Shape]) -> dict[str, list[StoredPart]]:
    """Checkpoint tensor name -> its pieces among diffusers' tensors."""
    return table.parts(diffusers, TABLE)
