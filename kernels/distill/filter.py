"""Which synthetic samples are worth learning from: those that show the adapter at work.

What else a sample may have to look like is a discriminator's matter (discriminator.py).
"""

from __future__ import annotations

import torch
from torch import Tensor


def action(taught: Tensor, plain: Tensor) -> Tensor:
    """How far an adapter moves each sample, (n,): 0 not at all, 1 as far as from one seed to another.

    taught, plain: (n, …) latents drawn with and without it from the same seeds; n ≥ 1. The unit is the mean distance
    between samples of different seeds without the adapter (for a single sample, its own norm times √2).
    """
    moved = (taught.double() - plain.double()).flatten(1).norm(dim=1)
    return (moved / apart(plain)).float()


def apart(plain: Tensor) -> Tensor:
    """The unit of :func:`action`: the mean distance between samples (n, …) of different seeds, n ≥ 1."""
    flat = plain.double().flatten(1)
    far = torch.pdist(flat).mean() if len(flat) > 1 else flat.norm() * 2**0.5
    return far.clamp(min=1e-12)
