"""Exact factors of Hadamard and Kronecker products of factored matrices, differentiable and of any dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from .lowrank import LowRank


def khatri_rao(first: LowRank, second: LowRank) -> LowRank:
    """Factors of (U₁V₁) ⊙ (U₂V₂), two matrices of one shape; their rank is r₁·r₂.

    The row-wise Khatri-Rao product of the left factors and the column-wise one of the right factors:
    up[i, (p,q)] = U₁[i,p] U₂[i,q],  down[(p,q), j] = V₁[p,j] V₂[q,j].
    """
    up = torch.einsum("m p, m q -> m p q", first.up, second.up).flatten(1)
    down = torch.einsum("p n, q n -> p q n", first.down, second.down).flatten(0, 1)
    return LowRank(up, down)


def kron(first: LowRank, second: LowRank) -> LowRank:
    """Factors of (U₁V₁) ⊗ (U₂V₂) = (U₁⊗U₂)(V₁⊗V₂); their rank is r₁·r₂.

    Flattened kernels ride on the second one: (a, b) ⊗ (c, d·kh·kw) is the flattened (a·c, b·d, kh, kw).
    """
    # As torch.kron, which refuses transposed factors.
    return LowRank(
        *(
            torch.einsum("a b, c d -> a c b d", a, b).flatten(2).flatten(0, 1)
            for a, b in zip(first, second, strict=True)
        )
    )


def trivial(full: Tensor) -> LowRank:
    """``full`` (a, b) as itself times an identity on its shorter side, of rank min(a, b)."""
    rows, columns = full.shape
    unit = torch.eye(min(rows, columns), dtype=full.dtype, device=full.device)
    return LowRank(unit, full) if rows <= columns else LowRank(full, unit)
