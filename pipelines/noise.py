"""The noise of a diffusers model in this project's measure (sigma, see kernels/distill/levels.py).

Both kinds turn latents and noise into the network's input and what the network says into x̂₀, and spread the levels of
a drawing as a host's ``euler`` with ``simple`` does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..kernels.distill import levels

LIMIT = 999.0  # largest sigma


class Discrete:
    """Models that predict noise (eps), or velocity (v), at one of T steps (Stable Diffusion 1, 2 and XL).

    alphas: (T,) share of the signal's energy at each step, falling.
    prediction: "epsilon", "v_prediction" or "sample".
    """

    def __init__(self, alphas: Tensor, prediction: str):
        alphas = alphas.detach().double().cpu()
        self.table = ((1 - alphas) / alphas).sqrt().clamp(max=LIMIT)
        self.prediction = prediction

    def sigmas(self, shares: Tensor) -> Tensor:
        """Sigmas at shares of the schedule, between two steps by their logarithms."""
        step = shares.double().clamp(0, 1) * (len(self.table) - 1)
        low = step.floor().long()
        high, fraction = step.ceil().long(), step - low
        logs = self.table.log()
        return ((1 - fraction) * logs[low] + fraction * logs[high]).exp().float()

    def drawn(self, steps: int, size: int) -> Tensor:
        """Sigmas (steps + 1,) of a drawing, from pure noise to 0."""
        at = [-(1 + int(i * len(self.table) / steps)) for i in range(steps)]
        return torch.cat([self.table[at], torch.zeros(1, dtype=torch.double)]).float()

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """What a drawing begins with: latents of no signal, in the form of :meth:`mixed`."""
        return noise * (1 + sigma**2).sqrt()

    def mixed(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x = x₀ + σ·ε."""
        return clean + levels.along(sigma, clean) * noise

    def time(self, sigma: Tensor) -> Tensor:
        """The step (n,) whose level is nearest."""
        logs = self.table.log().to(sigma.device)
        return (sigma.double().clamp(min=1e-9).log()[:, None] - logs).abs().argmin(1)

    def inputs(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """What the network sees of x."""
        return noisy / levels.along((1 + sigma**2).sqrt(), noisy)

    def clean(self, noisy: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """x̂₀."""
        sigma = levels.along(sigma, noisy)
        if self.prediction == "v_prediction":
            return noisy / (1 + sigma**2) - output * sigma / (1 + sigma**2).sqrt()
        return output if self.prediction == "sample" else noisy - sigma * output

    def step(self, noisy: Tensor, clean: Tensor, now: Tensor, following: Tensor) -> Tensor:
        """Euler's step from one sigma to the next."""
        return noisy + (noisy - clean) / now * (following - now)


class Flow:
    """Rectified flows (SD3, Flux).

    shift: how far the times are pushed towards noise, a factor. spans: for models whose shift follows the picture's
        size: (tokens, exponent) of a small and of a large picture.
    """

    def __init__(self, shift: float, spans: tuple[tuple[float, float], tuple[float, float]] | None = None):
        self.shift, self.spans = shift, spans

    @classmethod
    def of(cls, config: Any) -> Flow:
        """As a scheduler's configuration says."""
        if not config.get("use_dynamic_shifting"):
            return cls(float(config.get("shift") or 1.0))
        small = (config.get("base_image_seq_len", 256), config.get("base_shift", 0.5))
        large = (config.get("max_image_seq_len", 4096), config.get("max_shift", 1.15))
        return cls(math.exp(large[1]), (small, large))

    def _shifted(self, time: Tensor, shift: float) -> Tensor:
        return shift * time / (1 + (shift - 1) * time)

    def sigmas(self, shares: Tensor) -> Tensor:
        time = self._shifted(shares.float().clamp(1e-4, 1), self.shift)
        return levels.sigma_of_flow(time.clamp(1e-4, LIMIT / (1 + LIMIT)))

    def drawn(self, steps: int, size: int) -> Tensor:
        """Sigmas (steps + 1,); size: tokens of the picture. The first is infinite: pure noise."""
        shift = self.shift
        if self.spans:
            (few, low), (many, high) = self.spans
            shift = math.exp(low + (high - low) * (size - few) / (many - few))
        times = torch.tensor([(steps - i) / steps for i in range(steps)])
        return levels.sigma_of_flow(torch.cat([self._shifted(times, shift), torch.zeros(1)]))

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise

    def mixed(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return levels.noised(clean, noise, sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return 1000 * _flow(sigma)

    def inputs(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy

    def clean(self, noisy: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        return noisy - levels.along(_flow(sigma), noisy) * output

    def step(self, noisy: Tensor, clean: Tensor, now: Tensor, following: Tensor) -> Tensor:
        time = _flow(now)
        return noisy + (noisy - clean) / time * (_flow(following) - time)


def _flow(sigma: Tensor) -> Tensor:
    """A flow's time of a sigma, 1 where it is infinite."""
    return torch.where(sigma.isinf(), torch.ones_like(sigma), levels.flow_of_sigma(sigma))


def noise_of(scheduler: Any) -> Discrete | Flow:
    """The noise of a model, from its scheduler."""
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        return Flow.of(scheduler.config)
    return Discrete(alphas, scheduler.config.get("prediction_type", "epsilon"))
