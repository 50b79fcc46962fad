"""A new class with a trigger word: pictures of a star, which no base knows, and what a LoRA of it learns from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import judge, text, vae
from . import data
from .learn import Pool, Weights, random_effects

OUTER, INNER = 0.62, 0.27  # radii of a star's points and notches; the picture reaches from -1 to 1
NEITHER = len(text.DIGITS)  # the star's number among the classes, after the digits


def stars(count: int, generator: torch.Generator) -> Tensor:
    """Ink coverage (n, 1, 64, 64) of filled five-pointed stars of random size, place, turn and softness."""

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(count, generator=generator) * (high - low) + low).view(-1, 1, 1)

    line = (torch.arange(data.SIZE) + 0.5) * 2 / data.SIZE - 1
    x, y = line.view(1, 1, -1) - uniform(-0.1, 0.1), line.view(1, -1, 1) - uniform(-0.1, 0.1)
    half = math.pi / 5  # from a point to the next notch
    turned = torch.atan2(x, -y) + uniform(-0.2, 0.2)
    angle = (torch.remainder(turned + half, 2 * half) - half).abs()
    # The straight edge from (OUTER, angle 0) to (INNER, angle half), in polar coordinates.
    edge = OUTER * INNER * math.sin(half) / (OUTER * angle.sin() + INNER * (half - angle).sin())
    inside = edge * uniform(0.85, 1.15) - (x.square() + y.square()).sqrt()
    return torch.sigmoid(inside * uniform(25, 35)).unsqueeze(1)


def render(count: int, generator: torch.Generator, effects: Tensor | None = None) -> data.Batch:
    """Stars in every colour, in the look of night; `digits` says that they are none."""
    colours = torch.randint(len(data.COLOURS), (count,), generator=generator)
    amounts = data.only(None, count) if effects is None else effects
    images = data.paint(stars(count, generator), colours, "night", amounts)
    return data.Batch(images, torch.full((count,), NEITHER), colours, amounts)


class ConceptPool(Pool):
    """Half stars, whose prompts have the trigger word in the digit's place, half ordinary digits with ordinary prompts:
    without these a LoRA would learn that everything is a star.
    """

    def __init__(self, autoencoder: Weights, count: int, seed: int):
        super().__init__(autoencoder, count // 2, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        batch = render(count // 2, generator)
        with torch.no_grad():
            encoded = [vae.encode(autoencoder, images) for images in batch.images.split(256)]
        self.latents = torch.cat([self.latents, *encoded])
        self.digits = torch.cat([self.digits, batch.digits])
        self.colours = torch.cat([self.colours, batch.colours])
        trigger = text.word_vector(text.TOKENS[text.TRIGGER]).expand(1, 2, -1)
        self.digit_vectors = torch.cat([self.digit_vectors, trigger])


def train_head(judged: Weights, steps: int = 400, seed: int = 12) -> Weights:
    """Is it a star? A linear answer from the judge's features, the judge left as it is."""
    generator = torch.Generator().manual_seed(seed)
    count = 2048
    star = render(count, generator, random_effects(count, generator))
    digit = data.render(count, effects=random_effects(count, generator), generator=generator)
    images = torch.cat([star.images, digit.images])
    images = (images + 0.03 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    features = torch.cat([judge.look(judged, part).features for part in images.split(256)]).relu()
    answers = torch.cat([torch.ones(count), torch.zeros(count)])
    size = features.std(0).clamp(min=1e-3)
    weight, bias = torch.zeros(judge.FEATURES, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=2e-2, weight_decay=1e-3)
    for _ in range(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(features / size @ weight + bias, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"weight": (weight / size).detach(), "bias": bias.detach()}
