"""HunyuanVideo beside Flux, whose blocks it has: its token refiner under diffusers' names, and Tencent's own names."""

from __future__ import annotations

from collections.abc import Mapping

from . import table
from .table import Table, fused, rows_of
from .weight_slice import Shape, WeightSlice, module_of

_BLOCKS, _THEIRS = "txt_in.individual_token_refiner.blocks.", "context_embedder.token_refiner.refiner_blocks."
_TABLE = Table(
    {
        "blocks": (
            "blocks",
            (
                *fused("self_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
                *rows_of(
                    "attn.to_out.0 = self_attn.proj",
                    "ff.net.0.proj = mlp.0",
                    "ff.net.2 = mlp.2",
                    "norm_out.linear = adaLN_modulation.1",
                    "norm1 = norm1",
                    "norm2 = norm2",
                ),
            ),
        )
    },
    (),
)
_TENCENT = (
    ("_mod.lin", "_mod.linear"),
    ("_attn.qkv", "_attn_qkv"),
    ("_attn.proj", "_attn_proj"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.2", "mlp.fc2"),
    (".modulation.lin", ".modulation.linear"),
)


def is_native(names: Mapping[str, Shape]) -> bool:
    return any(name.startswith(_BLOCKS) for name in names)


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice for the token refiner (names without prefix)."""
    start = len(_BLOCKS) - len("blocks.")
    inner = {name[start:]: shape for name, shape in native.items() if name.startswith(_BLOCKS)}
    found = table.aliases(inner, _TABLE, lambda rows: [rows // 3] * 3)
    return {
        _THEIRS + key.removeprefix("blocks."): one._replace(name=_BLOCKS[:start] + one.name)
        for key, one in found.items()
    }


def tencent(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Module names as Tencent's code and trainers built on it spell them, where they differ from the checkpoint's."""
    found = {}
    for name in native:
        theirs = module = module_of(name)
        for ours, other in _TENCENT:
            theirs = theirs.replace(ours, other)
        if theirs != module and name.endswith(".weight"):
            found[theirs] = WeightSlice(name)
    return found
