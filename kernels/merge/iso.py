"""Iso-C: the sum with all its singular values made equal."""

from __future__ import annotations

import torch

from .. import lowrank
from ..lowrank import LowRank
from .registry import Merged, method


@method(name="iso", display="Iso-C", paper="Isotropic merging in common subspace (arXiv 2502.04959, ICML 2025)")
def iso(updates: list[LowRank], rank: int | None = None) -> Merged:
    """Σ ΔW = U Σ Vᵀ becomes σ̄ U Vᵀ with σ̄ the mean of its singular values (equation 7).

    The mean runs over the singular values that the sum has, at most the sum of the ranks: zeros of an update of low
    rank have no directions of their own. A rank keeps the directions of the largest of them.
    """
    summed = lowrank.concatenate([LowRank(u.up.double(), u.down.double()) for u in updates])
    whole, _ = lowrank.truncate(summed)
    half = torch.linalg.vector_norm(whole.up, dim=0)
    size = half.square().mean().sqrt()
    kept = whole.rank if rank is None else min(rank, whole.rank)
    scale = size / torch.where(half > 0, half, 1.0)
    up, down = whole.up * scale, whole.down * scale[:, None]
    return Merged(LowRank(up[:, :kept].float(), down[:kept].float()), (1 - kept / whole.rank) ** 0.5)
