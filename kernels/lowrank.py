"""Factored updates ΔW = up @ down: norms, inner products, concatenation, recompression.

Nothing here forms the dense m x n matrix except where the name says so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """An update ΔW = up @ down, the scale alpha/rank already folded in.

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


def rows(update: LowRank, start: int, length: int) -> LowRank:
    """Rows start:start+length of ΔW (a slice of a fused layer)."""
    return LowRank(update.up[start : start + length], update.down)


def concatenate(updates: list[LowRank]) -> LowRank:
    """The exact sum of several updates; its rank is the sum of the ranks."""
    return LowRank(torch.cat([u.up for u in updates], 1), torch.cat([u.down for u in updates], 0))


def stack_rows(updates: list[LowRank]) -> LowRank:
    """One update whose row blocks are the given ones (fusing q, k, v); ranks add up."""
    return LowRank(torch.block_diag(*[u.up for u in updates]), torch.cat([u.down for u in updates], 0))
