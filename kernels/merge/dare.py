"""DARE: drop entries at random, rescale the others, add up."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lowrank import LowRank
from .elementwise import deltas, total
from .registry import Merged, MergeOptions, method
from .results import from_entries


@method(name="dare", display="DARE", paper="DARE (arXiv 2311.03099, ICML 2024), linear")
def dare(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """Σ mask_i ∘ ΔW_i / density with independent masks that keep an entry with probability `density`."""
    generator = torch.Generator().manual_seed(options.seed)

    def drop(delta: Tensor, _: int) -> Tensor:
        kept = torch.rand(delta.shape, generator=generator) < options.density
        return torch.where(kept.to(delta.device), delta / options.density, 0.0)

    return from_entries(total(deltas(updates, drop)), updates, rank)
