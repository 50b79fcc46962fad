"""How far a merged update is from the exact sum of its sources, in figures."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...kernels import lowrank
from ...kernels.lowrank import LowRank
from ...kernels.stacked import stack

EXACT = 5e-3  # relative errors under this are measured again in float64


def figures(updates: Sequence[LowRank], merged: LowRank) -> dict[str, float]:
    """error, cosine, sum_norm, norm and source_norm of a merged update against its sources (see MergedModule).

    Everything from the Gram matrices of the stacked factors: in float32, and again in float64 when the error is so
    small that float32 would be guessing. The factors side by side are the sum itself.
    """
    whole = lowrank.concatenate(list(updates)) if merged.rank == sum(u.rank for u in updates) else None
    if whole and torch.equal(merged.up, whole.up) and torch.equal(merged.down, whole.down):
        found = _figures(updates, LowRank(merged.up[:, :0], merged.down[:0]), torch.float32)
        return {**found, "error": 0.0, "cosine": 1.0 if found["sum_norm"] > 0 else 0.0, "norm": found["sum_norm"]}
    found = _figures(updates, merged, torch.float32)
    return found if found["error"] > EXACT else _figures(updates, merged, torch.float64)


def _figures(updates: Sequence[LowRank], merged: LowRank, dtype: torch.dtype) -> dict[str, float]:
    stacked = stack([*updates, merged], dtype)
    owner = torch.eye(len(updates) + 1, dtype=torch.float64)
    owner = owner.repeat_interleave(torch.tensor([u.rank for u in (*updates, merged)]), 0)
    inners = owner.T @ (stacked.left * stacked.right).cpu() @ owner  # of all with each other, the merged one last
    whole, out = max(float(inners[:-1, :-1].sum()), 0.0), max(float(inners[-1, -1]), 0.0)
    inner = float(inners[:-1, -1].sum())
    each = inners.diagonal()[:-1].clamp_min(0).tolist()
    error = max(whole + out - 2 * inner, 0.0) ** 0.5
    size = (whole * out) ** 0.5
    return {
        "error": error / whole**0.5 if whole > 0 else 0.0,
        "cosine": inner / size if size > 0 else 0.0,
        "sum_norm": whole**0.5,
        "norm": out**0.5,
        "source_norm": (sum(each) / len(each)) ** 0.5,
    }
