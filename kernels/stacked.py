"""The factored core that most methods share: ΔW = B · A with the LoRAs' factors stacked into B and A.

B is (m, N), A is (N, n), N the sum of the ranks. Everything between the two large factors happens in N x N matrices:
the singular values of ΔW are those of a small core, and the best update of a smaller rank follows from the Gram
matrices BᵀB and AAᵀ alone. The large factors are read in pieces that fit the cache, each made float64 on the way:
fresh memory for whole float64 copies would cost more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from . import lowrank
from .lowrank import LowRank

# Smallest diagonal entry of the Cholesky factor of unit vectors' Gram matrix that is still trusted. Its square bounds
# what float64 rounding is amplified by: 1e-16 / 1e-8.
INDEPENDENT = 1e-4
# Singular values below this share of the largest are rounding.
NEGLIGIBLE = 1e-7
# Ranks that add up to more than this share of min(m, n) are merged as a dense matrix.
DENSE_SHARE = 0.75
# Numbers in a piece of the stacked factors, and vectors of it that meet those before them at once.
PIECE, BLOCK = 1 << 18, 32


class Stack(NamedTuple):
    """Updates of one shape side by side and the Gram matrices of their stacked factors, float64.

    updates: one per LoRA, together of rank N; left: (N, N) BᵀB; right: (N, N) AAᵀ.
    """

    updates: list[LowRank]
    left: Tensor
    right: Tensor

    @property
    def device(self) -> torch.device:
        return self.left.device

    def combined(self, left: Tensor, right: Tensor) -> LowRank:
        """(B · left) · (right · A), for (N, k) and (k, N) in float64: computed in float64, float32 in the end."""
        up = torch.empty(self.updates[0].shape[0], left.shape[1], device=self.device)
        down = torch.empty(len(right), self.updates[0].shape[1], device=self.device)
        for (start, end), piece in _pieces([u.up for u in self.updates], 0, torch.float64):
            up[start:end] = piece @ left
        for (start, end), piece in _pieces([u.down for u in self.updates], 1, torch.float64):
            down[:, start:end] = right @ piece
        return LowRank(up, down)

    def doubled(self) -> LowRank:
        """B and A themselves in float64."""
        up, down = lowrank.concatenate(self.updates)
        return LowRank(up.double(), down.double())


def stack(updates: list[LowRank], dtype: torch.dtype = torch.float64) -> Stack:
    """Put the LoRAs' factors side by side.

    Args:
        updates: at least one; all of one shape (m, n), of any ranks, on one device.
        dtype: in which the Gram matrices are computed; they come out in float64.
    """
    left = _gram(piece.T for _, piece in _pieces([u.up for u in updates], 0, dtype))
    right = _gram(piece for _, piece in _pieces([u.down for u in updates], 1, dtype))
    return Stack(updates, left.double(), right.double())


def _pieces(factors: Sequence[Tensor], along: int, dtype: torch.dtype) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """The factors of several LoRAs side by side, in pieces along dimension `along`: (start, end) and the numbers."""
    ranks = sum(factor.shape[1 - along] for factor in factors)
    length = factors[0].shape[along]
    step = max(PIECE // ranks, 1) if factors[0].device.type == "cpu" else length
    for start in range(0, length, step):
        end = min(start + step, length)
        yield (
            (start, end),
            torch.cat([factor.narrow(along, start, end - start) for factor in factors], 1 - along).to(dtype),
        )


def _gram(pieces: Iterator[Tensor]) -> Tensor:
    """X Xᵀ, N x N, of (N, d) rows that come in pieces along d, at least one; the upper triangle copies the lower."""
    first = next(pieces)
    gram = first.new_zeros(len(first), len(first))
    for rows in chain([first], pieces):
        for start in range(0, len(rows), BLOCK):
            end = min(start + BLOCK, len(rows))
            gram[start:end, :end].addmm_(rows[start:end], rows[:end].T)
    return gram.tril() + gram.tril(-1).T


def root(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Lower L and its inverse with L Lᵀ = matrix, a Gram matrix or a batch of them (…, N, N).

    None when the vectors of one are too nearly dependent (INDEPENDENT).
    """
    size = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    if not bool((size > 0).all()):
        return None
    factor, info = torch.linalg.cholesky_ex(matrix / (size[..., :, None] * size[..., None, :]))
    if bool(info.any()) or float(factor.diagonal(dim1=-2, dim2=-1).min()) < INDEPENDENT:
        return None
    inverse = torch.linalg.solve_triangular(factor, torch.eye(size.shape[-1]).to(factor), upper=False)
    return factor * size[..., :, None], inverse / size[..., None, :]


def truncate(stacked: Stack, rank: int | None = None) -> tuple[LowRank, float]:
    """The best update of at most `rank` for ΔW = B · A, balanced, and its relative Frobenius error (0 to 1).

    With A = L Q (L lower triangular, the rows of Q orthonormal) and C = B · L the squared singular values of ΔW are
    the eigenvalues of CᵀC = Lᵀ (BᵀB) L. When the rows of A are too nearly dependent for that, QR of both factors does
    it (:func:`.lowrank.truncate`). A rank of None keeps every singular value above rounding.
    """
    found = root(stacked.right)
    if found is None:
        small, error = lowrank.truncate(stacked.doubled(), rank)
        return LowRank(small.up.float(), small.down.float()), error
    lower, inverse = found
    square = lower.T @ stacked.left @ lower
    energy = float(square.trace())  # ‖ΔW‖²
    size = len(square)
    if not energy > 0:
        return zero(stacked), 0.0
    # A full decomposition: at these sizes it takes less time than a partial one outside torch.
    values, vectors = (found.flip(-1)[..., :rank] for found in torch.linalg.eigh(square))
    keep = values > NEGLIGIBLE**2 * values[0]
    values, vectors = values[keep], vectors[:, keep]
    half = values.sqrt().sqrt()
    lost = max(energy - float(values.sum()), 0.0) / energy if len(values) < size else 0.0
    return stacked.combined(lower @ vectors / half, (half[:, None] * vectors.T) @ inverse), lost**0.5


def spectrum(stacked: Stack) -> Tensor:
    """All N singular values of B · A, falling, float64; those beyond min(m, n) are zero up to rounding."""
    found = root(stacked.right)
    if found is None:
        up, down = stacked.doubled()
        return torch.linalg.svdvals(torch.linalg.qr(up)[1] @ torch.linalg.qr(down.T)[1].T)
    square = found[0].T @ stacked.left @ found[0]
    return torch.linalg.eigvalsh(square).flip(0).clamp_min(0).sqrt()


def zero(stacked: Stack) -> LowRank:
    """An update of rank one that changes nothing."""
    m, n = stacked.updates[0].shape
    return LowRank(torch.zeros(m, 1, device=stacked.device), torch.zeros(1, n, device=stacked.device))


def crowded(updates: list[LowRank]) -> bool:
    """Whether the ranks add up to so much that the dense matrix is the shorter way."""
    return sum(u.rank for u in updates) > DENSE_SHARE * min(updates[0].shape)


def dense_sum(updates: list[LowRank]) -> Tensor:
    """Σ ΔW as an (m, n) float32 matrix."""
    return lowrank.concatenate(updates).dense()


def possible_rank(updates: list[LowRank]) -> int:
    """The largest rank that the sum of the updates can have."""
    return min(sum(u.rank for u in updates), *updates[0].shape)
