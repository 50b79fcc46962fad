"""Noise levels in one measure for every kind of model: sigma, the noise over the signal in x = c·(x₀ + σ·ε).

Sigma is k-diffusion's: that of a variance-exploding model (eps or v prediction), with c = 1. A rectified flow at the
time t has c = 1 − t and σ = t/(1 − t) (Kingma et al. 2021, arXiv 2107.00630: models at one σ see the same thing up to a
factor). So the predictions x̂₀ of different kinds of model can be compared, and added, at one σ.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sigma_of_flow(time: Tensor) -> Tensor:
    """σ of a rectified flow's time t in [0, 1)."""
    return time / (1 - time)


def flow_of_sigma(sigma: Tensor) -> Tensor:
    """A rectified flow's time t of a σ ≥ 0."""
    return sigma / (1 + sigma)


def noised(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Rectified flow's x = (x₀ + σ·ε) / (1 + σ) for latents (n, …) and sigmas (n,)."""
    sigma = along(sigma, clean)
    return (clean + sigma * noise) / (1 + sigma)


def velocity_weight(sigma: Tensor) -> Tensor:
    """What turns squared errors of x̂₀ into squared errors of a flow's velocity: (1 + 1/σ)² (arXiv 2210.02747)."""
    return (1 + 1 / sigma).square()


def squared_error(prediction: Tensor, target_prediction: Tensor, sigma: Tensor) -> Tensor:
    """Mean squared error of x̂₀ per sample, (n,), weighted by :func:`velocity_weight`."""
    return velocity_weight(sigma) * (prediction.float() - target_prediction.float()).square().flatten(1).mean(1)


def spread(count: int, generator: torch.Generator) -> Tensor:
    """`count` shares of a schedule in (0, 1), one from each of as many equal strips, in random order."""
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return share[torch.randperm(count, generator=generator)]


def along(values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) shaped to multiply a batch (n, …)."""
    return values.view(-1, *[1] * (like.ndim - 1))
