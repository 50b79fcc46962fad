"""Noise levels in one measure for every kind of model: the ratio ρ of noise to signal in x = c·(x₀ + ρ·ε).

A variance-exploding model (eps or v prediction) has c = 1 and σ = ρ; a rectified flow has c = 1 − σ and ρ = σ/(1 − σ)
(Kingma et al. 2021, arXiv 2107.00630: models at one ratio see the same thing up to a factor). So the answers x̂₀ of
different kinds of model can be compared, and added, at one ρ.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ratio_of_flow(sigma: Tensor) -> Tensor:
    """ρ of a rectified flow's time σ in [0, 1)."""
    return sigma / (1 - sigma)


def flow_of_ratio(ratio: Tensor) -> Tensor:
    """A rectified flow's time σ of a ratio ρ ≥ 0."""
    return ratio / (1 + ratio)


def noised(clean: Tensor, noise: Tensor, ratio: Tensor) -> Tensor:
    """Rectified flow's x = (x₀ + ρ·ε) / (1 + ρ) for latents (n, …) and ratios (n,)."""
    ratio = along(ratio, clean)
    return (clean + ratio * noise) / (1 + ratio)


def velocity_weight(ratio: Tensor) -> Tensor:
    """What turns squared errors of x̂₀ into squared errors of a flow's velocity: (1 + 1/ρ)² (arXiv 2210.02747)."""
    return (1 + 1 / ratio).square()


def squared_error(answer: Tensor, goal: Tensor, ratio: Tensor) -> Tensor:
    """Mean squared error of x̂₀ per sample, (n,), weighted by :func:`velocity_weight`."""
    return velocity_weight(ratio) * (answer.float() - goal.float()).square().flatten(1).mean(1)


def spread(count: int, generator: torch.Generator) -> Tensor:
    """`count` shares of a schedule in (0, 1), one from each of as many equal strips, in random order."""
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return share[torch.randperm(count, generator=generator)]


def along(values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) shaped to multiply a batch (n, …)."""
    return values.view(-1, *[1] * (like.ndim - 1))
