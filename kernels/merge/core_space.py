"""Core Space with TIES: merge the small matrices that the updates are in one pair of common bases."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lowrank import LowRank
from .registry import Merged, method
from .results import from_factors
from .sparsified import disjoint_merge, trim


@method(name="core-ties", display="Core Space, TIES", paper="Core Space (arXiv 2509.17786, NeurIPS 2025) with TIES")
def core_ties(updates: list[LowRank], rank: int | None = None, *, density: float = 0.5) -> Merged:
    """M_i = U_Bᵀ B_i A_i V_A, U_B and V_A singular bases of [B_1 … B_T] and [A_1; …; A_T] (section 3), merged by TIES.

    The bases hold every update, so that nothing is lost: ΔW = U_B M V_Aᵀ.
    """
    left = basis(torch.cat([u.up.double() for u in updates], 1))
    right = basis(torch.cat([u.down.double() for u in updates], 0).T)
    cores = ((left.T @ u.up.double()) @ (u.down.double() @ right) for u in updates)
    merged = disjoint_merge(trim(core, density) for core in cores)
    return from_factors(left @ merged, right.T, rank)


def basis(columns: Tensor) -> Tensor:
    """Left singular vectors of (d, N), by falling singular value, without those of rounding: (d, rank)."""
    q, r = torch.linalg.qr(columns)
    u, values, _ = torch.linalg.svd(r, full_matrices=False)
    return q @ u[:, values > values[0] * 1e-12]
