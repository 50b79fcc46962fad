"""Flux.2: Flux's blocks without biases, with gated feed-forwards, and diffusers' names for them."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Row, Table, fused, rows_of
from .weight_slice import Shape, WeightSlice

_DOUBLE = (
    *fused("img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    *fused("txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    *rows_of(
        "attn.to_out.0 = img_attn.proj",
        "attn.to_add_out = txt_attn.proj",
        "ff.linear_in = img_mlp.0",
        "ff.linear_out = img_mlp.2",
        "ff_context.linear_in = txt_mlp.0",
        "ff_context.linear_out = txt_mlp.2",
        "attn.norm_q = img_attn.norm.query_norm",
        "attn.norm_k = img_attn.norm.key_norm",
        "attn.norm_added_q = txt_attn.norm.query_norm",
        "attn.norm_added_k = txt_attn.norm.key_norm",
    ),
    *(  # Flux.1's names for the same layers, which ComfyUI reads here too
        Row(f"{theirs}.net.{end}", f"{ours}_mlp.{n}", alias_only=True)
        for theirs, ours in (("ff", "img"), ("ff_context", "txt"))
        for end, n in (("0.proj", 0), ("2", 2))
    ),
)
_SINGLE = rows_of(
    "attn.to_qkv_mlp_proj = linear1",
    "attn.to_out = linear2",
    "attn.norm_q = norm.query_norm",
    "attn.norm_k = norm.key_norm",
)
_STEM = (
    *rows_of(
        "x_embedder = img_in",
        "context_embedder = txt_in",
        "time_guidance_embed.timestep_embedder.linear_1 = time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2 = time_in.out_layer",
        "time_guidance_embed.guidance_embedder.linear_1 = guidance_in.in_layer",
        "time_guidance_embed.guidance_embedder.linear_2 = guidance_in.out_layer",
        "double_stream_modulation_img.linear = double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear = double_stream_modulation_txt.lin",
        "single_stream_modulation.linear = single_stream_modulation.lin",
        "proj_out = final_layer.linear",
    ),
    Row("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
    *(
        Row(f"time_text_embed.{theirs}_embedder.linear_{n}", f"{ours}_in.{layer}_layer", alias_only=True)
        for theirs, ours in (("timestep", "time"), ("guidance", "guidance"))
        for n, layer in ((1, "in"), (2, "out"))
    ),
)
TABLE = Table(
    {"double_blocks": ("transformer_blocks", _DOUBLE), "single_blocks": ("single_transformer_blocks", _SINGLE)}, _STEM
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return any(name.startswith("double_stream_modulation_img.") for name in names)


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    return table.aliases(native, TABLE, lambda rows: [rows // 3] * 3)
