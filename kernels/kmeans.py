"""k-means from inner products alone: Lloyd's algorithm on the Gram matrix, all restarts in one batch.

Points enter only through G = X Xᵀ (N x N), so that the cost does not depend on their dimension. Three kinds of centre:

- ``points``: the mean; plain k-means.
- ``signed``: a point and its negative are the same: x or -x, whichever is nearer, joins, and the mean is of those.
- ``lines``: points on one line through the origin are the same, whatever their length and sign: the centre is a
  line, the distance to it ‖x‖² - <x, c>²/‖c‖², and each round turns c by one power step towards the best line.

Seeding: k-means++ (Arthur and Vassilvitskii, 2007), several candidates per step, from an explicit generator.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import checks
from .lock import locked

KINDS = ("points", "signed", "lines")
ITERATIONS = 100
TINY = 1e-300


class Clusters(NamedTuple):
    """labels: (N,) cluster 0..k-1 of each point; signs: (N,) ±1; inertia: Σ squared distances to the centres."""

    labels: Tensor
    signs: Tensor
    inertia: float


@locked
def kmeans(gram: Tensor, k: int, *, seed: int = 0, restarts: int = 10, kind: str = "points") -> Clusters:
    """Partition N points into k clusters of small inertia; the best of several starts.

    Args:
        gram: (N, N) inner products, symmetric.
        k: number of clusters; with k >= N each point is its own.
        seed: same gram, k, seed and restarts: same clusters. Clusters are numbered by their first point.
        kind: of centre, one of KINDS.

    Raises:
        SettingsError: k or restarts below 1, or an unknown kind.
    """
    checks.at_least_one("k", k)
    checks.at_least_one("restarts", restarts)
    checks.one_of("kind of centre", kind, choices=KINDS)
    count = len(gram)
    ones = torch.ones(count, dtype=gram.dtype)
    if k >= count:
        return Clusters(torch.arange(count), ones, 0.0)
    gram = gram.cpu()
    generator = torch.Generator().manual_seed(seed)
    labels, weights = _seed(gram, k, restarts, generator, kind)
    power = gram.diagonal()
    for _ in range(ITERATIONS):
        cross, norms = _centres(gram, labels, weights, k, kind)
        if kind == "lines":
            gain = cross.square() / norms[:, None]
        else:
            gain = 2 * (cross.abs() if kind == "signed" else cross) - norms[:, None]
        following = gain.argmax(2)
        if kind != "points":
            own = cross.gather(2, following[:, :, None])[:, :, 0]
            weights = own if kind == "lines" else torch.where(own < 0, -1.0, 1.0).to(gram.dtype)
        if torch.equal(following, labels):
            break
        labels = following
    gain = gain.gather(2, labels[:, :, None])[:, :, 0]
    inertia = (power - gain).sum(1)
    best = int(inertia.argmin())
    labels = _fill(labels[best], power - gain[best], k)
    signs = torch.where(weights[best] < 0, -1.0, 1.0).to(gram.dtype)
    return Clusters(_renumber(labels), signs, float(inertia[best].clamp_min(0)))


def _seed(gram: Tensor, k: int, restarts: int, generator: torch.Generator, kind: str) -> tuple[Tensor, Tensor]:
    """First labels and weights (restarts, N): each point goes to the nearest of k points drawn by k-means++."""
    count, trials = len(gram), 2 + int(math.log(k))
    power = gram.diagonal()
    if kind == "lines":  # Row c: distances to the line through c.
        distance = power[None] - gram.square() / power.clamp_min(TINY)[:, None]
    else:
        between = gram.abs() if kind == "signed" else gram
        distance = power[:, None] + power[None] - 2 * between
    # Where the seeds fall needs few digits.
    distance = (distance.clamp_min_(0) / power.max().clamp_min(TINY)).float()
    draws = torch.rand(k, restarts, trials, generator=generator)
    drawn = (draws[0, :, 0] * count).long().clamp_max_(count - 1)
    chosen, nearest = [drawn], distance[drawn]
    first = torch.arange(restarts) * trials
    for draw in draws[1:].unbind():
        edges = nearest.cumsum(1)
        candidates = torch.searchsorted(edges, draw * edges[:, -1:]).clamp_max_(count - 1).view(-1)
        closer = distance.index_select(0, candidates).view(restarts, trials, count)
        closer = torch.minimum(closer, nearest[:, None], out=closer)
        pick = closer.sum(2).argmin(1) + first
        chosen.append(candidates.index_select(0, pick))
        nearest = closer.view(-1, count).index_select(0, pick)
    chosen = torch.stack(chosen, 1)
    labels = distance[chosen].argmin(1)
    weights = torch.ones(restarts, count, dtype=gram.dtype)
    if kind != "points":
        own = gram[chosen.gather(1, labels), torch.arange(count)]
        weights = own if kind == "lines" else torch.where(own < 0, -1.0, 1.0).to(gram.dtype)
    return labels, weights


def _centres(gram: Tensor, labels: Tensor, weights: Tensor, k: int, kind: str) -> tuple[Tensor, Tensor]:
    """Inner products (R, N, k) of points with centres and squared norms (R, k) of centres, inf for an empty cluster.

    A centre is the sum of its points times their weights, divided by their number (``lines``: in any size).
    """
    restarts, count = labels.shape
    member = torch.zeros(restarts, count, k, dtype=gram.dtype).scatter_(2, labels[:, :, None], weights[:, :, None])
    sizes = torch.zeros(restarts, k, dtype=gram.dtype).scatter_add_(1, labels, torch.ones_like(weights))
    if kind != "lines":
        member /= sizes.clamp_min(1)[:, None]
    cross = (gram @ member.permute(1, 0, 2).reshape(count, -1)).view(count, restarts, k).permute(1, 0, 2)
    norms = (cross * member).sum(1)
    norms[(sizes == 0) | (norms <= 0)] = math.inf
    return cross, norms


def _fill(labels: Tensor, distance: Tensor, k: int) -> Tensor:
    """Give every empty cluster the point that lies farthest from its centre in a cluster of several."""
    sizes = torch.bincount(labels, minlength=k)
    labels, order = labels.clone(), distance.argsort(descending=True, stable=True).tolist()
    for empty in (sizes == 0).nonzero()[:, 0].tolist():
        point = next(i for i in order if sizes[labels[i]] > 1)
        sizes[labels[point]] -= 1
        labels[point], sizes[empty] = empty, 1
    return labels


def _renumber(labels: Tensor) -> Tensor:
    """Number the clusters in the order of their first points."""
    names: dict[int, int] = {}
    return torch.tensor([names.setdefault(label, len(names)) for label in labels.tolist()])
