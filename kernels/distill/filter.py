"""Which synthetic samples are worth learning from.

Trans-LoRA (arXiv 2405.17258, section 3.2) keeps samples that a discriminator takes for real task data. Here a sample
must show the adapter at work, and may have to look like a few references to a small discriminator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTY = 1e-2  # of the discriminator's weights, in units of standardised embeddings


def action(taught: Tensor, plain: Tensor) -> Tensor:
    """How far an adapter moves each sample, (n,): 0 not at all, 1 as far as from one seed to another.

    taught, plain: (n, …) latents drawn with and without it from the same seeds; n ≥ 1. The unit is the mean distance
    between samples of different seeds without the adapter (for a single sample, its own norm times √2).
    """
    moved = (taught.double() - plain.double()).flatten(1).norm(dim=1)
    flat = plain.double().flatten(1)
    far = torch.pdist(flat).mean() if len(flat) > 1 else flat.norm() * 2**0.5
    return (moved / far.clamp(min=1e-12)).float()


def likeness(references: Tensor, others: Tensor, samples: Tensor, steps: int = 50) -> Tensor:
    """Probability (n,) that each sample is of the references' kind, by logistic regression on embeddings.

    references (r, d) and others (o, d) are the two classes, weighed equally; samples (n, d). Embeddings are
    standardised together, the weights penalised (ridge), so that a handful of references suffice.
    """
    both = torch.cat([references, others]).double()
    mean, scale = both.mean(0), both.std(0).clamp(min=1e-6)
    x = (both - mean) / scale / both.shape[1] ** 0.5
    truth = torch.cat([torch.ones(len(references)), torch.zeros(len(others))]).double()
    share = torch.where(truth > 0, 0.5 / len(references), 0.5 / len(others))
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = x @ weights[1:] + weights[0]
        value = F.binary_cross_entropy_with_logits(logits, truth, weight=share, reduction="sum")
        value = value + PENALTY * weights[1:].square().sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    answer = ((samples.double() - mean) / scale / both.shape[1] ** 0.5) @ weights[1:] + weights[0]
    return answer.detach().sigmoid().float()
