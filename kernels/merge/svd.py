"""SVD: the best approximation of the sum by an update of a smaller rank (Eckart and Young, 1936)."""

from __future__ import annotations

from ..lowrank import LowRank
from .registry import Merged, MergeOptions, method
from .results import best_sum


@method(name="svd", display="SVD cut of the sum", paper="Eckart and Young (1936), in the factored core")
def svd(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """Σ ΔW cut to its top singular pairs; without a rank only what is rounding goes. No clamp."""
    return best_sum(updates, rank)
