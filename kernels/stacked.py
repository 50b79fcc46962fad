"""The factored core that most methods share: ΔW = B · mix · A with the LoRAs' factors stacked into B and A.

B is (m, N), A is (N, n), N the sum of the ranks. Everything between the two large factors happens in N x N matrices:
the singular values of ΔW are those of a small core, and the best update of a smaller rank follows from the Gram
matrices BᵀB and AAᵀ alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import lowrank
from .gram import gram_matrix
from .lowrank import LowRank

# Smallest diagonal entry of the Cholesky factor of unit vectors' Gram matrix that is still trusted. Its square bounds
# what float64 rounding is amplified by: 1e-16 / 1e-8.
INDEPENDENT = 1e-4
# Singular values below this share of the largest are rounding.
NEGLIGIBLE = 1e-7
# Ranks that add up to more than this share of min(m, n) are merged as a dense matrix.
DENSE_SHARE = 0.75


class Stack(NamedTuple):
    """Stacked factors in float64 and their Gram matrices.

    up: (m, N) B; down: (N, n) A; left: (N, N) BᵀB; right: (N, N) AAᵀ; owner: (N,) which LoRA a unit came from.
    """

    up: Tensor
    down: Tensor
    left: Tensor
    right: Tensor
    owner: Tensor


def stack(updates: list[LowRank], order: Tensor | None = None) -> Stack:
    """Put the LoRAs' factors side by side; `order`: (N,) another order of the units."""
    up, down = lowrank.concatenate(updates)
    owner = torch.repeat_interleave(torch.arange(len(updates)), torch.tensor([u.rank for u in updates]))
    if order is not None:
        where = order.to(up.device)
        up, down, owner = up.index_select(1, where), down.index_select(0, where), owner[order]
    up, down = up.double(), down.double()
    return Stack(up, down, gram(up.T), gram(down), owner)


def gram(rows: Tensor) -> Tensor:
    """X Xᵀ of (N, d) rows, N x N: the lower triangle is computed, the upper one copied."""
    if rows.shape[0] > rows.shape[1]:
        return rows @ rows.T
    lower = gram_matrix(rows, blocks=4 if rows.shape[0] >= 64 else 1).tril()
    return lower + lower.tril(-1).T


def root(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Lower L and its inverse with L Lᵀ = matrix, a Gram matrix; None when its vectors are too nearly dependent."""
    size = matrix.diagonal().sqrt()
    if not bool((size > 0).all()):
        return None
    factor, info = torch.linalg.cholesky_ex(matrix / torch.outer(size, size))
    if int(info) or float(factor.diagonal().min()) < INDEPENDENT:
        return None
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(size)).to(factor), upper=False)
    return factor * size[:, None], inverse / size


def cut(stacked: Stack, rank: int | None = None, mix: Tensor | None = None) -> tuple[LowRank, float]:
    """The best update of at most `rank` for ΔW = B · mix · A, balanced, and its relative Frobenius error.

    With A = L Q (L lower triangular, the rows of Q orthonormal) and C = B · mix · L the squared singular values of ΔW
    are the eigenvalues of CᵀC = Lᵀ mixᵀ (BᵀB) mix L. When the rows of A are too nearly dependent for that, QR
    of both factors does it (:func:`.lowrank.recompress`).

    Args:
        rank: None keeps every singular value above rounding.
        mix: (N, N); None for the identity, which is the plain sum.
    """
    found = root(stacked.right)
    if found is None:
        up = stacked.up if mix is None else stacked.up @ mix
        small, error = lowrank.recompress(LowRank(up, stacked.down), rank)
        return LowRank(small.up.float(), small.down.float()), error
    lower, inverse = found
    middle = lower if mix is None else mix @ lower
    square = middle.T @ stacked.left @ middle
    total = float(square.trace())
    size = len(square)
    if not total > 0:
        return zero(stacked), 0.0
    # A full decomposition: at these sizes it takes less time than a partial one outside torch.
    values, vectors = (found.flip(-1)[..., :rank] for found in torch.linalg.eigh(square))
    keep = values > NEGLIGIBLE**2 * values[0]
    values, vectors = values[keep], vectors[:, keep]
    half = values.sqrt().sqrt()
    up = stacked.up @ (middle @ vectors / half)
    down = ((half[:, None] * vectors.T) @ inverse) @ stacked.down
    lost = max(total - float(values.sum()), 0.0) / total if len(values) < size else 0.0
    return LowRank(up.float(), down.float()), lost**0.5


def spectrum(stacked: Stack) -> Tensor:
    """All N singular values of B · A, falling, float64; those beyond min(m, n) are zero up to rounding."""
    found = root(stacked.right)
    if found is None:
        core = torch.linalg.qr(stacked.up)[1] @ torch.linalg.qr(stacked.down.T)[1].T
        return torch.linalg.svdvals(core)
    square = found[0].T @ stacked.left @ found[0]
    return torch.linalg.eigvalsh(square).flip(0).clamp_min(0).sqrt()


def zero(stacked: Stack) -> LowRank:
    """An update of rank one that changes nothing."""
    m, n = len(stacked.up), stacked.down.shape[1]
    return LowRank(torch.zeros(m, 1, device=stacked.up.device), torch.zeros(1, n, device=stacked.up.device))


def crowded(updates: list[LowRank]) -> bool:
    """Whether the ranks add up to so much that the dense matrix is the shorter way."""
    return sum(u.rank for u in updates) > DENSE_SHARE * min(updates[0].shape)


def dense_sum(updates: list[LowRank]) -> Tensor:
    """Σ ΔW as an (m, n) float32 matrix."""
    return lowrank.concatenate(updates).dense()


def possible(updates: list[LowRank]) -> int:
    """The largest rank that the sum of the updates can have."""
    return min(sum(u.rank for u in updates), *updates[0].shape)
