"""Magnitude pruning: the sum of the largest entries of every update."""

from __future__ import annotations

from ..lowrank import LowRank
from .elementwise import deltas, total, trim
from .registry import Merged, MergeOptions, method
from .results import from_entries


@method(name="magnitude", display="Magnitude prune", paper="TIES-Merging (arXiv 2306.01708), its trimming, summed")
def magnitude(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """Keep the share `density` of each ΔW's entries, the largest, and add up."""
    return from_entries(total(deltas(updates, lambda delta, _: trim(delta, options.density))), updates, rank)
