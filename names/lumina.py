"""Z-Image and Lumina 2: slices of the fused attention.qkv, whose keys and values are narrower in Lumina 2.

diffusers renames more of Lumina 2 than of Z-Image; ComfyUI also reads Z-Image's names on Lumina 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Row, Table, fused, rows_of
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

_FIRST = {"layers": "norm1.norm", "noise_refiner": "norm1.norm", "context_refiner": "norm1"}


def _lumina_block(first: str) -> tuple[Row, ...]:
    """Lumina 2's block under diffusers' names, then under Z-Image's."""
    ours = (
        *fused("attention.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
        *rows_of(
            "attn.to_out.0 = attention.out",
            "attn.norm_q = attention.q_norm",
            "attn.norm_k = attention.k_norm",
            *(f"feed_forward.linear_{n} = feed_forward.w{n}" for n in (1, 2, 3)),
            "norm1.linear = adaLN_modulation.1",
            f"{first} = attention_norm1",
            "norm2 = attention_norm2",
            "ffn_norm1 = ffn_norm1",
            "ffn_norm2 = ffn_norm2",
        ),
    )
    return (*ours, *(row._replace(alias_only=True) for row in _BLOCK))


LUMINA_TABLE = Table(
    {name: (name, _lumina_block(first)) for name, first in _FIRST.items()},
    (
        *rows_of(
            "x_embedder = x_embedder",
            "time_caption_embed.caption_embedder.0 = cap_embedder.0",
            "time_caption_embed.caption_embedder.1 = cap_embedder.1",
            "time_caption_embed.timestep_embedder.linear_1 = t_embedder.mlp.0",
            "time_caption_embed.timestep_embedder.linear_2 = t_embedder.mlp.2",
            "norm_out.linear_1 = final_layer.adaLN_modulation.1",
            "norm_out.linear_2 = final_layer.linear",
        ),
        *(row._replace(alias_only=True) for row in _STEM),
    ),
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return "layers.0.attention.qkv.weight" in names and any(name.startswith("noise_refiner.0.") for name in names)


def is_diffusers(names: Mapping[str, Shape]) -> bool:
    return "layers.0.attention.to_q.weight" in names and any(name.startswith("noise_refiner.0.") for name in names)


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    fused_rows, width = native["layers.0.attention.qkv.weight"]
    narrow = (fused_rows - width) // 2
    if narrow != width:
        return table.aliases(
            native, LUMINA_TABLE, lambda rows: [width, narrow, narrow] if rows == fused_rows else [rows]
        )
    return table.aliases(native, TABLE, lambda count: [count // 3] * 3)


def parts(diffusers: Mapping[str, Shape]) -> dict[str, list[StoredPart]]:
    """Checkpoint tensor name -> its pieces among diffusers' tensors."""
    return table.parts(diffusers, TABLE)
