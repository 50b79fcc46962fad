"""What the entry-by-entry methods share: they work on the true m x n entries of ΔW, one module at a time.

Their results have full rank. A rank cuts them by SVD; without one the result keeps the sum of the sources' ranks, so
that it is no larger than the exact sum (:func:`.results.from_entries`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..lowrank import LowRank


def deltas(updates: list[LowRank], prune: Callable[[Tensor, int], Tensor]) -> Iterable[Tensor]:
    """Each ΔW, dense and pruned, one after the other: only one is in memory."""
    return (prune(update.dense(), i) for i, update in enumerate(updates))


def total(parts: Iterable[Tensor]) -> Tensor:
    """The sum, held in one matrix."""
    result = None
    for part in parts:
        result = part if result is None else result.add_(part)
    return result


def trim(delta: Tensor, density: float) -> Tensor:
    """The share `density` of entries that are largest by magnitude; the others zero.

    As many as ⌊density · size⌋ (TIES-Merging, arXiv 2306.01708, step 1); entries equal to the smallest kept all stay.
    """
    count = int(density * delta.numel())
    if count >= delta.numel():
        return delta
    if count < 1:
        return torch.zeros_like(delta)
    sizes = delta.abs()
    return torch.where(sizes >= sizes.flatten().kthvalue(delta.numel() - count + 1).values, delta, 0.0)


def agree(parts: Iterable[Tensor]) -> Tensor:
    """Elect a sign per entry and average the entries that have it (TIES-Merging, arXiv 2306.01708, steps 2 and 3).

    The sign is that of the sum; the mean runs over the non-zero entries of that sign.
    """
    above = below = number_above = number_below = None
    for part in parts:
        if above is None:
            above, below, number_above, number_below = (torch.zeros_like(part) for _ in range(4))
        above += part.clamp_min(0)
        below += part.clamp_max(0)
        number_above += part > 0
        number_below += part < 0
    up = above + below >= 0
    return torch.where(up, above, below) / torch.where(up, number_above, number_below).clamp_min(1)
