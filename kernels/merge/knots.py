"""KnOTS with TIES: align the updates by one SVD of all of them, then TIES in the aligned space."""

from __future__ import annotations

import torch

from ..lowrank import LowRank
from .registry import Merged, method
from .results import from_factors
from .sparsified import disjoint_merge, trim


@method(name="knots", display="KnOTS-TIES", paper="KnOTS (arXiv 2410.19735, ICLR 2025) with TIES")
def knots(updates: list[LowRank], rank: int | None = None, *, density: float = 0.5) -> Merged:
    """[ΔW_1 … ΔW_T] = U Σ [V_1ᵀ … V_Tᵀ] (equation 4); merge the V_iᵀ by TIES; ΔW = U Σ V_mergedᵀ.

    With ΔW_i = B_i A_i, B = [B_1 … B_T] = Q R and A_iᵀ = Q_i R_i the SVD is that of [R_1' R_1ᵀ … R_T' R_Tᵀ], R_i' the
    columns of R that belong to B_i: N x N. The V_iᵀ are (N, n).
    """
    basis, core = torch.linalg.qr(torch.cat([u.up.double() for u in updates], 1))
    rights = [torch.linalg.qr(u.down.double().T) for u in updates]
    blocks = [c @ r.T for c, (_, r) in zip(core.split([u.rank for u in updates], 1), rights, strict=True)]
    u, values, vt = torch.linalg.svd(torch.cat(blocks, 1), full_matrices=False)
    live = values > values[0] * 1e-12  # the others are rounding
    cores = vt[live].split([block.shape[1] for block in blocks], 1)
    aligned = (v @ q.T for v, (q, _) in zip(cores, rights, strict=True))
    merged = disjoint_merge(trim(v, density) for v in aligned)
    half = values[live].sqrt()
    return from_factors(basis @ (u[:, live] * half), half[:, None] * merged, rank)
