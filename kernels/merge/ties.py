"""TIES: trim, elect a sign, average those that agree."""

from __future__ import annotations

from ..lowrank import LowRank
from .elementwise import agree, deltas, trim
from .registry import Merged, MergeOptions, method
from .results import from_entries


@method(name="ties", display="TIES", paper="TIES-Merging (arXiv 2306.01708, NeurIPS 2023)")
def ties(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """Trim every ΔW to `density` of its entries, elect a sign per entry, average the entries that have it.

    The strengths take part in the election and in the mean. The mean divides by the number of LoRAs that agree, so
    that a LoRA alone comes out at its own strength (mergekit's ``normalize`` divides by their weights).
    """
    return from_entries(agree(deltas(updates, lambda delta, _: trim(delta, options.density))), updates, rank)
