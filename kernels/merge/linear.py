"""Linear: the average of the updates, (1/T) Σ w_i ΔW_i, of the T LoRAs that have the module."""

from __future__ import annotations

from .. import lowrank
from ..lowrank import LowRank
from .concat import concat
from .registry import Merged, MergeOptions, method


@method(name="linear", display="Average", paper="weighted average of the updates (model soups, arXiv 2203.05482)")
def linear(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """The sum over their number. The strengths are already in the updates, negatives included."""
    share = (1 / len(updates)) ** 0.5
    total, error, *_ = concat(updates, rank, options)
    return Merged(lowrank.LowRank(total.up * share, total.down * share), error)
