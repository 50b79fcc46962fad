"""Concatenation: the exact sum of the updates, the reference for every other method."""

from __future__ import annotations

from .. import lowrank
from ..lowrank import LowRank
from .registry import Merged, MergeOptions, method
from .results import best_sum


@method(name="concat", display="Sum (concatenate)", paper="exact sum of the updates; their ranks add up")
def concat(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """[B_1 … B_T] · [A_1; …; A_T]: what a chain of loaders applies. A smaller rank cuts it like `svd`."""
    if rank is None or rank >= sum(u.rank for u in updates):
        return Merged(lowrank.concatenate(updates), 0.0)
    return best_sum(updates, rank)
