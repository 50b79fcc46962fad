"""DELLA: drop entries at random, small ones more often, rescale, elect a sign, average those that agree."""

from __future__ import annotations

import torch
from torch import Tensor

from ..lowrank import LowRank
from .elementwise import agree, deltas
from .registry import Merged, MergeOptions, method
from .results import from_entries

# Half the range of the keep probabilities around the density (mergekit's default).
EPSILON = 0.15


@method(name="della", display="DELLA", paper="DELLA-Merging (arXiv 2406.11617), MagPrune, elect, fuse")
def della(updates: list[LowRank], rank: int | None, options: MergeOptions) -> Merged:
    """MagPrune each ΔW: p of :func:`keep` to keep an entry, which then becomes entry / p; then elect and fuse as TIES.

    mergekit draws with the same probabilities but rescales the whole matrix to its former L1 norm instead.
    """
    generator = torch.Generator().manual_seed(options.seed)

    def prune(delta: Tensor, _: int) -> Tensor:
        chance = keep(delta, options.density)
        kept = torch.rand(delta.shape, generator=generator).to(delta.device) < chance
        return torch.where(kept, delta / chance, 0.0)

    return from_entries(agree(deltas(updates, prune)), updates, rank)


def keep(delta: Tensor, density: float) -> Tensor:
    """Keep probabilities (m, n), in each row from density − ε for the smallest entry to density + ε for the largest.

    ε is EPSILON, less where the density lies closer than that to 0 or 1.
    """
    epsilon = min(EPSILON, density / 2, 1 - density)
    width = delta.shape[1]
    step = torch.linspace(-epsilon, epsilon, width, device=delta.device) if width > 1 else torch.zeros(1).to(delta)
    order = delta.abs().argsort(dim=1, stable=True)
    return torch.empty_like(delta).scatter_(1, order, (density + step).expand_as(delta))
