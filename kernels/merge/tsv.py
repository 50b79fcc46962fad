"""TSV-M: the LoRAs' singular vectors, made orthogonal to one another, with their singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import lowrank
from ..lowrank import LowRank
from .registry import Merged, method
from .results import from_factors


@method(name="tsv", display="TSV-Merge", paper="Task Singular Vectors (arXiv 2412.00081, CVPR 2025)")
def tsv(updates: list[LowRank], rank: int | None = None) -> Merged:
    """ΔW_i = U_i Σ_i V_iᵀ; U = [U_1 … U_T] and V likewise become their nearest orthonormal U⊥, V⊥; ΔW = U⊥ Σ V⊥ᵀ.

    The paper keeps min(m, n)/T triplets per task, so that all fit; LoRAs mostly fit as they are, and where their
    ranks add up to more than min(m, n) each is truncated to an equal part of it.
    """
    fits = sum(u.rank for u in updates) <= min(updates[0].shape)
    per_task = None if fits else max(min(updates[0].shape) // len(updates), 1)
    tasks = [lowrank.truncate(LowRank(u.up.double(), u.down.double()), per_task)[0] for u in updates]
    up, down = torch.cat([u.up for u in tasks], 1), torch.cat([u.down for u in tasks], 0)
    half = torch.linalg.vector_norm(up, dim=0)  # Balanced factors: √σ on either side.
    safe = torch.where(half > 0, half, 1.0)
    left, right = orthonormal(up / safe), orthonormal(down.T / safe)
    return from_factors(left * half, half[:, None] * right.T, rank)


def orthonormal(columns: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns, X Yᵀ of the SVD X S Yᵀ (Procrustes; equation 8)."""
    q, r = torch.linalg.qr(columns)
    x, _, yt = torch.linalg.svd(r)
    return q @ (x @ yt)
