"""The plain sums: all of it, its average, its best approximation of a smaller rank."""

from __future__ import annotations

from .. import lowrank
from ..lowrank import LowRank
from .registry import Merged, method
from .results import best_sum


@method(name="concat", display="Sum (concatenate)", paper="exact sum of the updates; their ranks add up")
def concat(updates: list[LowRank], rank: int | None = None) -> Merged:
    """[B_1 … B_T] · [A_1; …; A_T]: what a chain of loaders applies. A smaller rank truncates it like `svd`.

    The exact sum is the reference for every other method.
    """
    return _sum(updates, rank)


@method(name="linear", display="Average", paper="weighted average of the updates (model soups, arXiv 2203.05482)")
def linear(updates: list[LowRank], rank: int | None = None) -> Merged:
    """(1/T) Σ w_i ΔW_i of the T LoRAs that have the module. The strengths w_i are already in the updates."""
    half = (1 / len(updates)) ** 0.5  # of the weight 1/T, on either factor
    (up, down), error, *_ = _sum(updates, rank)
    return Merged(LowRank(up * half, down * half), error)


@method(name="svd", display="SVD cut of the sum", paper="Eckart and Young (1936), in the factored core")
def svd(updates: list[LowRank], rank: int | None = None) -> Merged:
    """Σ ΔW truncated to its top singular pairs; without a rank only what is rounding goes. No clamp."""
    return best_sum(updates, rank)


def _sum(updates: list[LowRank], rank: int | None) -> Merged:
    if rank is None or rank >= sum(u.rank for u in updates):
        return Merged(lowrank.concatenate(updates), 0.0)
    return best_sum(updates, rank)
