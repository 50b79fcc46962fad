"""SVD: the best approximation of the sum by an update of a smaller rank (Eckart and Young, 1936)."""

from __future__ import annotations

from .. import lowrank
from ..lowrank import LowRank
from ..stacked import crowded, cut, dense_sum, stack
from .registry import Merged, MergeOptions, method


@method(name="svd", display="SVD cut of the sum", paper="Eckart and Young (1936), in the factored core")
def svd(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """Σ ΔW cut to its top singular pairs; without a rank only what is rounding goes. No clamp."""
    return best(updates, rank)


def best(updates: list[LowRank], rank: int | None) -> Merged:
    """The best update of at most `rank` for the sum, from Gram matrices, or from ΔW itself where that is shorter."""
    if crowded(updates) and rank is not None:
        return Merged(*lowrank.from_dense(dense_sum(updates), min(rank, *updates[0].shape)))
    return Merged(*cut(stack(updates), rank))
