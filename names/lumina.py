"""Z-Image (the Lumina 2 family with equal q, k and v): slices of the fused attention.qkv."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Table, fused, rows_of
from .weight_slice import Shape, StoredPart, WeightSlice

_SAME = (
    "attention_norm1",
    "attention_norm2",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
    "ffn_norm1",
    "ffn_norm2",
    "adaLN_modulation.0",
)

_BLOCK = (
    *fused("attention.qkv", "attention.to_q", "attention.to_k", "attention.to_v"),
    *rows_of(
        "attention.to_out.0 = attention.out",
        "attention.norm_q = attention.q_norm",
        "attention.norm_k = attention.k_norm",
        *(f"{name} = {name}" for name in _SAME),
    ),
)

_STEM = rows_of(
    "all_final_layer.2-1.linear = final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1 = final_layer.adaLN_modulation.1",
    "all_x_embedder.2-1 = x_embedder",
    *(f"{name} = {name}" for name in ("cap_embedder.0", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2")),
)

TABLE = Table(
    {name: (name, _BLOCK) for name in ("layers", "context_refiner", "noise_refiner")},
    _STEM,
    {"x_pad_token": "x_pad_token", "cap_pad_token": "cap_pad_token"},
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return "layers.0.attention.qkv.weight" in names and any(name.startswith("noise_refiner.0.") for name in names)


def is_diffusers(names: Mapping[str, Shape]) -> bool:
    return "layers.0.attention.to_q.weight" in names and any(name.startswith("noise_refiner.0.") for name in names)


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix); none when keys are narrower than queries."""
    rows, width = native["layers.0.attention.qkv.weight"]
    if rows != 3 * width:
        return {}
    return table.aliases(native, TABLE, lambda count: [count // 3] * 3)


def parts(diffusers: Mapping[str, Shape]) -> dict[str, list[StoredPart]]:
    """Checkpoint tensor name -> its pieces among diffusers' tensors."""
    return table.parts(diffusers, TABLE)
