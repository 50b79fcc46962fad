"""From what a method computed to its result: truncated to a rank, with its error."""

from __future__ import annotations

from torch import Tensor

from .. import lowrank
from ..lowrank import LowRank
from ..stacked import crowded, dense_sum, possible_rank, stack, truncate
from .registry import Merged


def best_sum(updates: list[LowRank], rank: int | None) -> Merged:
    """The best update of at most `rank` for Σ ΔW, from Gram matrices, or from ΔW itself where that is shorter.

    None for every singular value above rounding. The error is relative to Σ ΔW (Frobenius).
    """
    if rank is not None and crowded(updates):
        return Merged(*lowrank.from_dense(dense_sum(updates), min(rank, *updates[0].shape)))
    return Merged(*truncate(stack(updates), rank))


def from_factors(up: Tensor, down: Tensor, rank: int | None) -> Merged:
    """float64 factors (m, r), (r, n), r from 0, as a balanced float32 update of at most `rank` and at least 1."""
    if up.shape[1] == 0:
        up, down = up.new_zeros(len(up), 1), down.new_zeros(1, down.shape[1])
    small, error = lowrank.truncate(LowRank(up, down), rank)
    return Merged(LowRank(small.up.float(), small.down.float()), error)


def from_entries(dense_update: Tensor, updates: list[LowRank], rank: int | None) -> Merged:
    """A dense (m, n) result as factors of at most `rank`; without one, of the rank that Σ ΔW can have."""
    limit = possible_rank(updates) if rank is None else min(rank, *dense_update.shape)
    return Merged(*lowrank.from_dense(dense_update, limit))
