"""PixArt Alpha and Sigma: fused qkv and kv <-> diffusers' attn1 and attn2."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Table, fused, rows_of
from .weight_slice import Shape, WeightSlice

_BLOCK = (
    *fused("attn.qkv", "attn1.to_q", "attn1.to_k", "attn1.to_v"),
    *fused("cross_attn.kv_linear", "attn2.to_k", "attn2.to_v"),
    *rows_of(
        "attn1.to_out.0 = attn.proj",
        "attn2.to_q = cross_attn.q_linear",
        "attn2.to_out.0 = cross_attn.proj",
        "ff.net.0.proj = mlp.fc1",
        "ff.net.2 = mlp.fc2",
    ),
)
_EMBEDDERS = {"timestep": "t_embedder", "resolution": "csize_embedder", "aspect_ratio": "ar_embedder"}
_STEM = rows_of(
    *(
        f"adaln_single.emb.{theirs}_embedder.linear_{n + 1} = {ours}.mlp.{2 * n}"
        for theirs, ours in _EMBEDDERS.items()
        for n in (0, 1)
    ),
    "pos_embed.proj = x_embedder.proj",
    "caption_projection.linear_1 = y_embedder.y_proj.fc1",
    "caption_projection.linear_2 = y_embedder.y_proj.fc2",
    "adaln_single.linear = t_block.1",
    "proj_out = final_layer.linear",
)
TABLE = Table({"blocks": ("transformer_blocks", _BLOCK)}, _STEM)
_QUERY = "blocks.0.cross_attn.q_linear.weight"


def is_native(names: Mapping[str, Shape]) -> bool:
    return _QUERY in names and "blocks.0.cross_attn.kv_linear.weight" in names


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    width = native[_QUERY][0]
    return table.aliases(native, TABLE, lambda rows: [width] * (rows // width))
