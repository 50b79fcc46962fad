"""Krea 2: the checkpoint's short names <-> diffusers' long ones."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Table, rows_of
from .weight_slice import Shape, WeightSlice

_BLOCK = rows_of(
    "attn.to_q = attn.wq",
    "attn.to_k = attn.wk",
    "attn.to_v = attn.wv",
    "attn.to_gate = attn.gate",
    "attn.to_out.0 = attn.wo",
    "attn.to_out = attn.wo",  # as some tools write it
    "ff.gate = mlp.gate",
    "ff.up = mlp.up",
    "ff.down = mlp.down",
)
_STEM = rows_of(
    "img_in = first",
    "time_embed.linear_1 = tmlp.0",
    "time_embed.linear_2 = tmlp.2",
    "time_mod_proj = tproj.1",
    "txt_in.linear_1 = txtmlp.1",
    "txt_in.linear_2 = txtmlp.3",
    "text_fusion.projector = txtfusion.projector",
    "final_layer.linear = last.linear",
)
TABLE = Table(
    {
        "blocks": ("transformer_blocks", _BLOCK),
        "txtfusion.layerwise_blocks": ("text_fusion.layerwise_blocks", _BLOCK),
        "txtfusion.refiner_blocks": ("text_fusion.refiner_blocks", _BLOCK),
    },
    _STEM,
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return "txtfusion.projector.weight" in names


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    return table.aliases(native, TABLE, lambda rows: [rows])
