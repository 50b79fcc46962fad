"""How the family learns: pictures and prompts in, the rectified-flow loss, one loop for bases and adapters alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import model, text, vae
from . import data

Weights = dict[str, Tensor]


class Log:
    """Prints the mean loss now and then."""

    def __init__(self, stage: str, steps: int):
        self.stage, self.steps, self.start, self.sum, self.count = stage, steps, time.monotonic(), 0.0, 0

    def __call__(self, step: int, loss: Tensor) -> None:
        self.sum, self.count = self.sum + loss.item(), self.count + 1
        if (step + 1) % max(1, self.steps // 20) == 0:
            seconds = time.monotonic() - self.start
            print(
                f"{self.stage}: step {step + 1}/{self.steps}, loss {self.sum / self.count:.5f}, {seconds:.0f} s",
                flush=True,
            )
            self.sum, self.count = 0.0, 0


def rate(step: int, steps: int, peak: float, warm: int = 50) -> float:
    """Learning rate: linear warm-up, then half a cosine down to a hundredth of the peak."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def random_effects(count: int, generator: torch.Generator) -> Tensor:
    """Amounts for a training set that has seen everything: each effect absent in half of the pictures."""
    amounts = torch.rand(count, 3, generator=generator)
    amounts = torch.where(torch.rand(count, 3, generator=generator) < 0.5, amounts.round(), amounts)
    return amounts * (torch.rand(count, 3, generator=generator) < 0.5)


def any_picture(count: int, generator: torch.Generator) -> data.Batch:
    """Pictures of both looks with random effects."""
    halves = [
        data.render(count // 2, look=look, effects=random_effects(count // 2, generator), generator=generator)
        for look in data.LOOKS
    ]
    fields = ("images", "digits", "colours", "effects")
    return data.Batch(*(torch.cat([getattr(half, name) for half in halves]) for name in fields))


class Pool:
    """Latents of many pictures, made once: what a stage learns from."""

    def __init__(
        self,
        autoencoder: Weights,
        count: int,
        seed: int,
        *,
        look: str = "night",
        effect: str | Sequence[str] | None = None,
    ):
        generator = torch.Generator().manual_seed(seed)
        latents, digits, colours = [], [], []
        with torch.no_grad():
            for _ in range(count // 256):
                batch = data.render(256, look=look, effects=data.only(effect, 256), generator=generator)
                latents.append(vae.encode(autoencoder, batch.images.contiguous(memory_format=torch.channels_last)))
                digits.append(batch.digits)
                colours.append(batch.colours)
        self.latents, self.digits, self.colours = (torch.cat(part) for part in (latents, digits, colours))
        names = [str(d) for d in range(10)]
        self.digit_vectors = torch.stack(
            [
                torch.stack([text.word_vector(text.TOKENS[w]) for w in pair])
                for pair in zip(text.DIGITS, names, strict=True)
            ]
        )
        self.colour_vectors = torch.stack([text.word_vector(text.TOKENS[w]) for w in text.COLOURS])

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents and pooled texts: a digit (word or numeral), a colour and up to five filler words of any kind."""
        pick = torch.randint(len(self.latents), (count,), generator=generator)
        numeral = (torch.rand(count, generator=generator) < 0.25).long()
        digit, colour = self.digit_vectors[self.digits[pick], numeral], self.colour_vectors[self.colours[pick]]
        fillers = torch.randn(count, 5, text.WIDTH, generator=generator)
        length = torch.randint(6, (count, 1), generator=generator)
        fillers = fillers * (torch.arange(5) < length).unsqueeze(2)
        pooled = text.pooled_of(torch.cat([digit.unsqueeze(1), colour.unsqueeze(1), fillers], 1))
        empty = torch.rand(count, 1, generator=generator) < 0.1
        return self.latents[pick], pooled.masked_fill(empty, 0.0)


def flow_loss(weights: Weights, latents: Tensor, pooled: Tensor, generator: torch.Generator) -> Tensor:
    """Rectified flow: x_t = (1 − σ)·x + σ·ε, the model answers ε − x; σ spread as SD3's shift of 3 samples it."""
    noise = torch.randn(latents.shape, generator=generator)
    sigma = model.flow_shift(torch.rand(len(latents), generator=generator))
    mix = sigma.view(-1, 1, 1, 1)
    return F.mse_loss(model.forward(weights, (1 - mix) * latents + mix * noise, 1000 * sigma, pooled), noise - latents)


def fit(
    stage: str,
    parameters: Weights,
    patched: Callable[[Weights], Weights],
    pool: Pool,
    *,
    steps: int,
    peak: float,
    batch: int,
    seed: int,
    average: float = 0.999,
) -> Weights:
    """Train ``parameters``; ``patched(parameters)`` gives the model's weights. Returns their moving average."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: w.clone().requires_grad_() for name, w in parameters.items()}
    mean = {name: w.detach().clone() for name, w in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    log = Log(stage, steps)
    for step in range(steps):
        loss = flow_loss(patched(parameters), *pool.draw(batch, generator), generator)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        keep = min(average, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(mean.values()), [w.detach() for w in parameters.values()], 1 - keep)
        log(step, loss)
    return mean
