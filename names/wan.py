"""Wan: self_attn, cross_attn and ffn <-> diffusers' attn1, attn2 and ffn.net."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Table, rows_of
from .weight_slice import Shape, WeightSlice

_ATTENTION = ("to_q = q", "to_k = k", "to_v = v", "to_out.0 = o", "norm_q = norm_q", "norm_k = norm_k")
_IMAGE = ("add_k_proj = k_img", "add_v_proj = v_img", "norm_added_k = norm_k_img")


def _inside(theirs: str, ours: str, pairs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        " = ".join(f"{a}.{b}" for a, b in zip((theirs, ours), pair.split(" = "), strict=True)) for pair in pairs
    )


TABLE = Table(
    {
        "blocks": (
            "blocks",
            rows_of(
                *_inside("attn1", "self_attn", _ATTENTION),
                *_inside("attn2", "cross_attn", _ATTENTION + _IMAGE),
                "ffn.net.0.proj = ffn.0",
                "ffn.net.2 = ffn.2",
                "norm2 = norm3",
            ),
        )
    },
    rows_of(
        "condition_embedder.time_embedder.linear_1 = time_embedding.0",
        "condition_embedder.time_embedder.linear_2 = time_embedding.2",
        "condition_embedder.time_proj = time_projection.1",
        "condition_embedder.text_embedder.linear_1 = text_embedding.0",
        "condition_embedder.text_embedder.linear_2 = text_embedding.2",
        "patch_embedding = patch_embedding",
        "proj_out = head.head",
    ),
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return any(name.startswith("blocks.0.cross_attn.k.") for name in names) and "head.head.weight" in names


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    return table.aliases(native, TABLE, lambda rows: [rows])
