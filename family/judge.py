"""A small convolutional judge, trained on real drawn digits: what is in a picture, and how strong is each effect?

It answers the questions the benchmark asks: which digit, which colour, how much of each effect (0 to 1), and how far
a set of pictures is from the real ones (Fréchet distance between Gaussian fits of its 64 features, Heusel et al. 2017,
arXiv 1706.08500, with this judge in place of Inception).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = (3, 16, 32, 64, 64)
FEATURES = 64
HEADS = {"digit": 10, "colour": 4, "effect": 3}


class Verdict(NamedTuple):
    """What the judge sees in n pictures."""

    digits: Tensor  # (n, 10) probabilities
    colours: Tensor  # (n, 4) probabilities
    effects: Tensor  # (n, 3) strengths 0..1: frame, slant, stripes
    features: Tensor  # (n, 64)


def layout() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (into, out) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False)):
        shapes[f"conv.{i}.weight"], shapes[f"conv.{i}.bias"] = (out, into, 3, 3), (out,)
    shapes["features.weight"], shapes["features.bias"] = (FEATURES, CHANNELS[-1] * 16), (FEATURES,)
    for head, size in HEADS.items():
        shapes[f"{head}.weight"], shapes[f"{head}.bias"] = (size, FEATURES), (size,)
    return shapes


def initial(generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights at He's scale."""
    return {
        name: torch.zeros(shape)
        if len(shape) == 1
        else torch.randn(shape, generator=generator) * (2 / math.prod(shape[1:])) ** 0.5
        for name, shape in layout().items()
    }


def logits(w: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unnormalised digit, colour and effect answers and the features, for images (n, 3, 64, 64) in [0, 1]."""
    x = images * 2 - 1
    for i in range(len(CHANNELS) - 1):
        x = F.relu(F.conv2d(x, w[f"conv.{i}.weight"], w[f"conv.{i}.bias"], stride=2, padding=1))
    features = F.linear(x.flatten(1), w["features.weight"], w["features.bias"])
    heads = (F.linear(F.relu(features), w[f"{head}.weight"], w[f"{head}.bias"]) for head in HEADS)
    return *heads, features


@torch.no_grad()
def look(w: Mapping[str, Tensor], images: Tensor) -> Verdict:
    """Judge images (n, 3, 64, 64) in [0, 1]."""
    digits, colours, effects, features = logits(w, images)
    return Verdict(digits.softmax(1), colours.softmax(1), effects.sigmoid(), features)


@torch.no_grad()
def concept(head: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Probability (n,) that a picture shows the new class and no digit, from :class:`Verdict`'s features."""
    return torch.sigmoid(F.relu(features) @ head["weight"] + head["bias"])


def accuracy(verdict: Verdict, digits: Tensor, colours: Tensor) -> tuple[float, float]:
    """Share of pictures with the right digit, and with the right colour."""
    digit = (verdict.digits.argmax(1) == digits).float().mean()
    colour = (verdict.colours.argmax(1) == colours).float().mean()
    return digit.item(), colour.item()


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (64,) and covariance (64, 64) of features (n, 64), in float64."""
    features = features.double()
    return features.mean(0), features.T.cov()


def frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Fréchet distance of two Gaussians: |μ_a − μ_b|² + tr(C_a + C_b − 2·(C_a C_b)^½)."""
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    values, vectors = torch.linalg.eigh(cov_a.double())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    middle = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).double().square().sum() + cov_a.trace() + cov_b.trace() - 2 * middle
    return max(0.0, distance.item())
