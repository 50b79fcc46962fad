"""A discriminator: which embeddings look like real ones.

Trans-LoRA (arXiv 2405.17258, section 3.2) trains one where the LoRA was trained, on real against generated samples, and
lets it choose the synthetic samples later. Here it is ridge-penalised logistic regression on standardised embeddings
(le Cessie and van Houwelingen, *Ridge estimators in logistic regression*, Applied Statistics 41, 1992)

    min over w, b of  Σ_i a_i log(1 + exp(−y_i (w·x_i + b))) + λ/2 ‖w‖²,   y = ±1,  Σ over each class of a_i = 1/2,

because there are a few dozen pictures and hundreds of numbers for each. So few real pictures lie far from where others
of their kind lie on the fitted w, so b is moved until 0 is the best threshold for pictures that were *not* fitted:
cross-validation says where those lie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTY = 1e-2  # λ, for embeddings of mean square 1
FOLDS = 10  # at most
PASSING = 1.645  # standard deviations above the generated pictures' mean: one in twenty of them passes


@dataclass(frozen=True)
class Linear:
    """Logit w·(x − mean)/scale + bias of embeddings x (n, d); all vectors (d,), float64."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: float

    def logits(self, embeddings: Tensor) -> Tensor:
        """(n,) float64; above 0 an embedding is rather a real one."""
        return (embeddings.double() - self.mean) / self.scale @ self.weight + self.bias

    def probability(self, embeddings: Tensor) -> Tensor:
        """(n,) in 0 … 1 that embeddings (n, d) are of the real ones' kind."""
        return self.logits(embeddings).sigmoid().float()


class Validation(NamedTuple):
    """How a discriminator does on pictures it was not fitted to: shares of real and of generated ones told right.

    real is nan where there is only one real picture.
    """

    real: float
    generated: float

    @property
    def accuracy(self) -> float:
        """Mean of both shares: 0.5 is guessing."""
        return (self.real + self.generated) / 2


def train(
    real: Tensor, generated: Tensor, groups: Tensor | None = None, penalty: float = PENALTY
) -> tuple[Linear, Validation]:
    """A discriminator between embeddings real (r, d) and generated (g, d), and how well it does; r ≥ 1, g ≥ 2.

    groups: (g,) integers; generated pictures of one group (one prompt) are held out together.
    """
    points = _Points(real, generated, penalty)
    folds = _Folds(len(real), len(generated), groups)
    seen = points.held_out(folds)
    middle = _threshold(*seen)
    weights = points.fit()
    found = points.linear(weights)
    right = [(part > middle if kind else part <= middle).double().mean().item() for kind, part in enumerate(seen[::-1])]
    return replace(found, bias=found.bias - middle), Validation(right[1] if len(seen[0]) else float("nan"), right[0])


def likeness(
    real: Tensor, plain: Tensor, samples: Tensor, groups: Tensor | None = None, penalty: float = PENALTY
) -> Tensor:
    """Probability (n,) that samples (n, d) are of the kind of real (r, d) ones, against plain (n, d), their own pairs.

    Sample i was made from plain i (same seed, same prompt), so a classifier fitted to plain i has learnt to reject
    sample i for all they share. Each is therefore judged by one that never saw its pair, nor another of its group:
    cross-fitting (Chernozhukov et al., *Double/debiased machine learning*, 2018).

    groups: (n,) integers, see :func:`train`.
    """
    points, folds = _Points(real, plain, penalty), _Folds(len(real), len(plain), groups)
    middle = _threshold(*points.held_out(folds))
    answers = torch.empty(len(samples), dtype=torch.float64)
    for out in folds.generated:
        judged = points.linear(points.fit(without=len(real) + out))
        answers[out] = judged.logits(samples[out]) - middle
    return answers.sigmoid().float()


class _Folds:
    """Which pictures are held out together: real[k] and generated[k] are indices into their class."""

    def __init__(self, real: int, generated: int, groups: Tensor | None):
        member = torch.arange(generated) if groups is None else groups.unique(return_inverse=True)[1]
        if int(member.max()) == 0:
            member = torch.arange(generated)  # one group for all: it cannot be held out
        count = int(member.max()) + 1
        folds = min(FOLDS, count)
        self.generated = [(member % folds == k).nonzero().flatten() for k in range(folds)]
        most = min(folds, real) if real > 1 else 0
        self.real = [(torch.arange(real) % most == k).nonzero().flatten() for k in range(most)]


class _Points:
    """Both classes, standardised together, in the coordinates of their own span: at most as many as pictures."""

    def __init__(self, real: Tensor, generated: Tensor, penalty: float):
        both = torch.cat([real, generated]).double()
        self.mean, scale = both.mean(0), both.std(0)
        self.scale = torch.where(scale > 1e-9 * both.abs().amax(0).clamp(min=1e-30), scale, 1.0)
        self.x = (both - self.mean) / self.scale / both.shape[1] ** 0.5
        u, s, v = torch.linalg.svd(self.x, full_matrices=False)
        self.z, self.back = u * s, v
        self.real, self.penalty = torch.arange(len(both)) < len(real), penalty

    def fit(self, without: Tensor | None = None) -> Tensor:
        """Weights in z and the bias, (c + 1,), by Newton's method, of all pictures but some."""
        keep = torch.ones(len(self.z), dtype=torch.bool)
        if without is not None:
            keep[without] = False
        z = torch.cat([self.z[keep], torch.ones(int(keep.sum()), 1, dtype=torch.float64)], 1)
        real = self.real[keep]
        share = torch.where(real, 0.5 / real.sum(), 0.5 / (~real).sum())
        sign = torch.where(real, 1.0, -1.0).double()
        ridge = torch.full((z.shape[1],), self.penalty, dtype=torch.float64)
        ridge[-1] = 1e-9  # the bias is free

        def loss(w: Tensor) -> Tensor:
            return (share * F.softplus(-sign * (z @ w))).sum() + (ridge * w * w).sum() / 2

        w = torch.zeros(z.shape[1], dtype=torch.float64)
        for _ in range(50):
            p = (z @ w).sigmoid()
            slope = z.T @ (share * (p - real.double())) + ridge * w
            curvature = (z * (share * p * (1 - p))[:, None]).T @ z + ridge.diag()
            step, size = torch.linalg.solve(curvature, slope), 1.0
            while loss(w - size * step) > loss(w) and size > 1e-6:
                size /= 2
            w = w - size * step
            if slope @ step < 1e-12:
                break
        return w

    def linear(self, weights: Tensor) -> Linear:
        return Linear(self.mean, self.scale, weights[:-1] @ self.back / self.x.shape[1] ** 0.5, weights[-1].item())

    def held_out(self, folds: _Folds) -> tuple[Tensor, Tensor]:
        """Logits of real (empty for a single one) and generated (g,) pictures from fits without them.

        A fit with one real picture less says other logits to everything, so a real picture's logit is told by how far
        it lies above generated ones that the same fit has not seen either.
        """
        first, real = int(self.real.sum()), []
        generated = torch.empty(len(self.z) - first, dtype=torch.float64)
        for number, out in enumerate(folds.generated):
            generated[out] = self._logits(self.fit(first + out), first + out)
            if folds.real:
                own = folds.real[number % len(folds.real)]
                without = self.fit(torch.cat([own, first + out]))
                real.append(self._logits(without, own) - self._logits(without, first + out).mean())
        return (torch.cat(real) + generated.mean() if real else generated[:0]), generated

    def _logits(self, weights: Tensor, rows: Tensor) -> Tensor:
        return self.z[rows] @ weights[:-1] + weights[-1]


def _threshold(real: Tensor, generated: Tensor) -> float:
    """Between the means of held-out logits, nearer to the class that spreads less.

    With a single real picture nothing of its class can be held out: what one generated picture in twenty passes.
    """
    spread = generated.std()
    if len(real) == 0:
        return float(generated.mean() + PASSING * spread)
    own = real.std() if len(real) > 2 else spread  # two numbers say nothing of their spread
    share = (spread / (spread + own)) if spread + own > 0 else torch.tensor(0.5)
    return float(generated.mean() + share * (real.mean() - generated.mean()))
