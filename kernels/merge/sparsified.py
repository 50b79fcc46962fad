"""Merging by entries: sparsify every ΔW, then add up or let the signs vote.

TIES, DARE, DELLA and magnitude pruning are two steps each: a way to sparsify (:func:`trim`, a random mask with one
chance for all or those of :func:`keep`) and a way to combine (:func:`add`, :func:`disjoint_merge`). They work on the
true m x n entries of ΔW, one LoRA at a time. Their results have full rank: a rank truncates them by SVD; without one
they keep the sum of the sources' ranks, so that they are no larger than the exact sum (:func:`.results.from_entries`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..lowrank import LowRank
from .registry import Merged, method
from .results import from_entries

# Half the range of DELLA's keep probabilities around the density (mergekit's default).
EPSILON = 0.15


@method(name="ties", display="TIES", paper="TIES-Merging (arXiv 2306.01708, NeurIPS 2023)")
def ties(updates: list[LowRank], rank: int | None = None, *, density: float = 0.5) -> Merged:
    """:func:`trim` every ΔW to `density` of its entries, :func:`elect_sign` per entry, :func:`disjoint_merge`.

    Steps 1 to 3 of the paper's algorithm 1, with λ = 1. The strengths take part in the election and in the mean, which
    divides by the number of LoRAs that agree: a LoRA alone comes out at its own strength (mergekit's ``normalize``
    divides by their weights).
    """
    trimmed = (trim(update.dense(), density) for update in updates)
    return from_entries(disjoint_merge(trimmed), updates, rank)


@method(name="dare", display="DARE", paper="DARE (arXiv 2311.03099, ICML 2024), linear")
def dare(updates: list[LowRank], rank: int | None = None, *, density: float = 0.5, seed: int = 0) -> Merged:
    """Σ mask_i ∘ ΔW_i / density with independent masks that keep an entry with probability `density`, 1 − p there.

    The masks are drawn on the CPU, LoRA by LoRA, from `seed`: the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)

    def dropped(entries: Tensor) -> Tensor:
        kept = torch.rand(entries.shape, generator=generator) < density
        return torch.where(kept.to(entries.device), entries / density, 0.0)

    return from_entries(add(dropped(update.dense()) for update in updates), updates, rank)


@method(name="della", display="DELLA", paper="DELLA-Merging (arXiv 2406.11617), MagPrune, elect, fuse")
def della(updates: list[LowRank], rank: int | None = None, *, density: float = 0.5, seed: int = 0) -> Merged:
    """MagPrune each ΔW: p of :func:`keep` to keep an entry, which then becomes entry / p; then elect and fuse as TIES.

    mergekit draws with the same probabilities but rescales the whole matrix to its former L1 norm instead.
    """
    generator = torch.Generator().manual_seed(seed)

    def pruned(entries: Tensor) -> Tensor:
        chance = keep(entries, density)
        kept = torch.rand(entries.shape, generator=generator).to(entries.device) < chance
        return torch.where(kept, entries / chance, 0.0)

    return from_entries(disjoint_merge(pruned(update.dense()) for update in updates), updates, rank)


@method(name="magnitude", display="Magnitude prune", paper="TIES-Merging (arXiv 2306.01708), its trimming, summed")
def magnitude(updates: list[LowRank], rank: int | None = None, *, density: float = 0.5) -> Merged:
    """Keep the share `density` of each ΔW's entries, the largest, and add up."""
    return from_entries(add(trim(update.dense(), density) for update in updates), updates, rank)


def trim(entries: Tensor, density: float) -> Tensor:
    """The share `density` of entries that are largest by magnitude; the others zero. Any shape.

    As many as ⌊density · size⌋ (TIES-Merging, arXiv 2306.01708, step 1); entries equal to the smallest kept all stay.
    """
    count = int(density * entries.numel())
    if count >= entries.numel():
        return entries
    if count < 1:
        return torch.zeros_like(entries)
    sizes = entries.abs()
    return torch.where(sizes >= sizes.flatten().kthvalue(entries.numel() - count + 1).values, entries, 0.0)


def keep(entries: Tensor, density: float) -> Tensor:
    """Keep probabilities (m, n), in each row from density − ε for the smallest entry to density + ε for the largest.

    ε is EPSILON, less where the density lies closer than that to 0 or 1.
    """
    epsilon = min(EPSILON, density / 2, 1 - density)
    width = entries.shape[1]
    step = torch.linspace(-epsilon, epsilon, width, device=entries.device) if width > 1 else torch.zeros(1).to(entries)
    order = entries.abs().argsort(dim=1, stable=True)
    return torch.empty_like(entries).scatter_(1, order, (density + step).expand_as(entries))


def add(dense_updates: Iterator[Tensor]) -> Tensor:
    """The sum of at least one update (m, n), held in the first; only one other is in memory beside it."""
    result = next(dense_updates)
    for update in dense_updates:
        result.add_(update)
    return result


def elect_sign(summed: Tensor) -> Tensor:
    """Where Σ ΔW_i, (m, n), elects +: true where it is at least 0 (TIES-Merging, arXiv 2306.01708, step 2)."""
    return summed >= 0


def disjoint_merge(dense_updates: Iterable[Tensor]) -> Tensor:
    """The mean, entry by entry, of those updates that have the elected sign there; 0 where none has it (TIES, step 3).

    Args:
        dense_updates: at least one, all of shape (m, n), already trimmed; taken one at a time, so that besides four
            matrices for sums and counts only one is in memory.
    """
    tally: list[Tensor] = []
    for update in dense_updates:
        tally = tally or [torch.zeros_like(update) for _ in range(4)]
        above, below, number_above, number_below = tally
        above += update.clamp_min(0)
        below += update.clamp_max(0)
        number_above += update > 0
        number_below += update < 0
    above, below, number_above, number_below = tally
    positive = elect_sign(above + below)
    return torch.where(positive, above, below) / torch.where(positive, number_above, number_below).clamp_min(1)
