"""Factored updates ΔW = up @ down: norms, inner products, rows of fused weights, concatenation, truncation.

Nothing here forms the dense m x n matrix except where the name says so.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import SettingsError
from .spectral import subspace


class LowRank(NamedTuple):
    """An update ΔW = up @ down, the scale alpha/rank already in ``up``.

    up:   (m, r) float32
    down: (r, n) float32; a convolution's n is in_channels * kh * kw.
    """

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @classmethod
    def of(cls, up: Tensor, down: Tensor, alpha: float | None = None) -> LowRank:
        """The update of a LoRA's factors as files hold them: alpha/r · up · down in float32.

        Args:
            up: (m, r), or a 1x1 kernel (m, r, 1, 1); any floating dtype.
            down: (r, n), or a kernel (r, in_channels, kh, kw), flattened.
            alpha: a number or a tensor with one; None for alpha = r, scale 1.

        Raises:
            SettingsError: the factors do not fit each other.
        """
        if up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0] or up[0, 0].numel() != 1:
            raise SettingsError(
                f"factors of shapes {tuple(up.shape)} and {tuple(down.shape)} do not fit each other",
                hint="up is (m, r) or (m, r, 1, 1); down is (r, n) or (r, channels, height, width).",
            )
        scale = 1.0 if alpha is None else float(alpha) / up.shape[1]
        return cls(up.float().flatten(1) * scale, down.float().flatten(1))

    def dense(self) -> Tensor:
        """The (m, n) matrix itself."""
        return self.up @ self.down


def inner(a: LowRank, b: LowRank) -> float:
    """Frobenius inner product <a, b>, from r x r Gram matrices in float64."""
    left = a.up.double().T @ b.up.double()
    right = a.down.double() @ b.down.double().T
    return float((left * right).sum())


def norm(update: LowRank) -> float:
    """Frobenius norm of ΔW."""
    return max(inner(update, update), 0.0) ** 0.5


def cosine(a: LowRank, b: LowRank) -> float:
    """Cosine between two updates of the same shape; 0 when either is zero."""
    size = norm(a) * norm(b)
    return inner(a, b) / size if size > 0 else 0.0


def scale(update: LowRank, factor: float) -> LowRank:
    """factor * ΔW."""
    return LowRank(update.up * factor, update.down)


# Rows of fused weights (q, k and v in one): of ΔW, which are rows of ``up``, and of any tensor alike.
Rows = TypeVar("Rows", Tensor, LowRank)


def take_rows(whole: Rows, start: int, length: int) -> Rows:
    """Rows start:start+length, as a view."""
    if isinstance(whole, LowRank):
        return LowRank(take_rows(whole.up, start, length), whole.down)
    return whole[start : start + length]


def place_rows(part: Rows, start: int, total: int) -> Rows:
    """The part's rows from `start` on among `total` rows that are zero elsewhere; itself where it has as many."""
    if isinstance(part, LowRank):
        return LowRank(place_rows(part.up, start, total), part.down)
    if start == 0 and len(part) == total:
        return part
    whole = part.new_zeros(total, *part.shape[1:])
    whole[start : start + len(part)] = part
    return whole


def swap_halves(whole: Rows) -> Rows:
    """The two halves of the rows exchanged: scale and shift of a final modulation, which two programs order apart."""
    if isinstance(whole, LowRank):
        return LowRank(swap_halves(whole.up), whole.down)
    return whole.roll(len(whole) // 2, 0)


def used_columns(up: Tensor) -> Tensor:
    """(r,) which columns of a left factor (m, r, …) are not all zero: a slice taken out of q, k, v leaves others so."""
    return up.flatten(1).abs().amax(0) > 0


def concatenate(updates: list[LowRank]) -> LowRank:
    """The exact sum of several updates; its rank is the sum of the ranks."""
    return LowRank(torch.cat([u.up for u in updates], 1), torch.cat([u.down for u in updates], 0))


def stack_rows(updates: list[LowRank]) -> LowRank:
    """One update whose row blocks are the given ones (fusing q, k, v); ranks add up."""
    return LowRank(torch.block_diag(*[u.up for u in updates]), torch.cat([u.down for u in updates], 0))


def truncate(update: LowRank, rank: int | None = None, tol: float | None = None) -> tuple[LowRank, float]:
    """The best update of a smaller rank, from QR of both factors and an SVD of the r x r core (float64).

    Args:
        update: (m, r) @ (r, n).
        rank: largest rank of the result; None for no limit.
        tol: largest relative Frobenius error; None for rounding only (1e-7), or whatever `rank` asks for.

    Returns:
        the update with factors balanced (columns of `up` and rows of `down` carry √σ each, σ descending), of rank
        at least 1, and its relative Frobenius error (0 for a zero update). When both limits are given, the rank
        wins: the error may then exceed `tol`.

    Raises:
        SettingsError: rank below 1, or tol negative.
    """
    left, left_core = torch.linalg.qr(update.up.double())
    right, right_core = torch.linalg.qr(update.down.double().T)
    u, values, vt = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    kept, error = _kept_rank(values, rank, tol)
    root = values[:kept].sqrt()
    up, down = left @ (u[:, :kept] * root), (root[:, None] * vt[:kept]) @ right.T
    return LowRank(up.to(update.up.dtype), down.to(update.down.dtype)), error


def from_dense(delta: Tensor, rank: int | None = None, tol: float | None = None) -> tuple[LowRank, float]:
    """Factors of a dense (m, n) matrix by truncated SVD; limits, result and errors as in :func:`truncate`.

    With a rank alone only that many singular pairs are computed (:func:`.spectral.subspace`).
    """
    work = delta.float()
    if rank is not None and rank >= 1 and tol is None and rank * 4 <= min(delta.shape):
        found = subspace(work, rank)
        # Projecting the matrix itself makes the product the best one within the found left subspace.
        core = found.left.T @ work
        root = torch.linalg.vector_norm(core, dim=1).sqrt()
        update = LowRank(found.left * root, core / torch.where(root > 0, root, 1.0)[:, None])
        total = float(torch.linalg.vector_norm(work))
        return update, float(torch.linalg.vector_norm(work - update.dense())) / total if total > 0 else 0.0
    u, values, vt = torch.linalg.svd(work.double() if min(delta.shape) <= 512 else work, full_matrices=False)
    kept, error = _kept_rank(values, rank, tol)
    root = values[:kept].sqrt()
    return LowRank((u[:, :kept] * root).float(), (root[:, None] * vt[:kept]).float()), error


def _kept_rank(values: Tensor, rank: int | None, tol: float | None) -> tuple[int, float]:
    """How many singular values to keep, and the relative error of dropping the others."""
    if rank is not None and rank < 1:
        raise SettingsError(f"rank must be at least 1, got {rank}")
    if tol is not None and not tol >= 0:
        raise SettingsError(f"tolerance must not be negative, got {tol}")
    squares = values.double().square()
    total = float(squares.sum())
    if total == 0:
        return 1, 0.0
    # tail[i]: relative error when the first i values are kept.
    tail = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)]).div(total).sqrt()
    limit = tol if tol is not None else 1e-7
    kept = max(int((tail > limit).sum()), 1)
    if rank is not None:
        kept = min(kept, rank)
    return kept, float(tail[kept])
