"""AuraFlow: double_layers and single_layers <-> diffusers' joint and single transformer blocks."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Row, Table, rows_of
from .weight_slice import Shape, WeightSlice


def _feed_forward(theirs: str, ours: str) -> tuple[str, ...]:
    parts = (("linear_1", "c_fc1"), ("linear_2", "c_fc2"), ("out_projection", "c_proj"))
    return tuple(f"{theirs}.{their} = {ours}.{our}" for their, our in parts)


_DOUBLE = rows_of(
    *(
        f"attn.{theirs} = attn.w2{ours}"
        for theirs, ours in zip(("to_q", "to_k", "to_v", "to_out.0"), "qkvo", strict=True)
    ),
    *(f"attn.add_{letter}_proj = attn.w1{letter}" for letter in "qkv"),
    "attn.to_add_out = attn.w1o",
    *_feed_forward("ff", "mlpX"),
    *_feed_forward("ff_context", "mlpC"),
    "norm1.linear = modX.1",
    "norm1_context.linear = modC.1",
)
_SINGLE = rows_of(
    *(
        f"attn.{theirs} = attn.w1{ours}"
        for theirs, ours in zip(("to_q", "to_k", "to_v", "to_out.0"), "qkvo", strict=True)
    ),
    *_feed_forward("ff", "mlp"),
    "norm1.linear = modCX.1",
)
_STEM = (
    *rows_of(
        "time_step_proj.linear_1 = t_embedder.mlp.0",
        "time_step_proj.linear_2 = t_embedder.mlp.2",
        "context_embedder = cond_seq_linear",
        "pos_embed.proj = init_x_linear",
        "proj_out = final_linear",
    ),
    Row("norm_out.linear", "modF.1", swap=True),
)
TABLE = Table(
    {"double_layers": ("joint_transformer_blocks", _DOUBLE), "single_layers": ("single_transformer_blocks", _SINGLE)},
    _STEM,
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return "double_layers.0.attn.w1q.weight" in names


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice (names without prefix)."""
    return table.aliases(native, TABLE, lambda rows: [rows])
