"""k-means from inner products alone: Lloyd's algorithm on the Gram matrix, all restarts in one batch.

Points enter only through G = X Xᵀ (N x N), so that the cost does not depend on their dimension. With `signed` a point
and its negative are the same: each joins the nearest line rather than the nearest centre (±x, mean of the signed
points). Seeding: k-means++ (Arthur and Vassilvitskii, 2007), several candidates per step, from an explicit generator.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ITERATIONS = 100


class Clusters(NamedTuple):
    """labels: (N,) cluster 0..k-1 of each point; signs: (N,) ±1; inertia: Σ squared distances to the centres."""

    labels: Tensor
    signs: Tensor
    inertia: float


def kmeans(gram: Tensor, k: int, *, seed: int = 0, restarts: int = 10, signed: bool = False) -> Clusters:
    """Partition N points into k clusters of small inertia; the best of several starts.

    Args:
        gram: (N, N) inner products, symmetric.
        k: number of clusters; with k >= N each point is its own.
        seed: same gram, k, seed and restarts: same clusters. Clusters are numbered by their first point.
        signed: let a point stand for its negative, too.
    """
    count = len(gram)
    ones = torch.ones(count, dtype=gram.dtype)
    if k >= count:
        return Clusters(torch.arange(count), ones, 0.0)
    gram = gram.cpu()
    generator = torch.Generator().manual_seed(seed)
    labels, signs = _seed(gram, k, restarts, generator, signed)
    power = gram.diagonal()
    for _ in range(ITERATIONS):
        cross, norms, _ = _centres(gram, labels, signs, k)
        gain = (cross.abs() if signed else cross).mul_(2).sub_(norms[:, None])
        following = gain.argmax(2)
        if signed:
            signs = torch.where(cross.gather(2, following[:, :, None])[:, :, 0] < 0, -1.0, 1.0).to(gram.dtype)
        if torch.equal(following, labels):
            break
        labels = following
    gain = gain.gather(2, labels[:, :, None])[:, :, 0]
    inertia = (power - gain).sum(1)
    best = int(inertia.argmin())
    labels = _fill(labels[best], power - gain[best], k)
    return Clusters(_renumber(labels), signs[best], float(inertia[best].clamp_min(0)))


def _seed(gram: Tensor, k: int, restarts: int, generator: torch.Generator, signed: bool) -> tuple[Tensor, Tensor]:
    """First labels and signs (restarts, N): each point goes to the nearest of k points drawn by k-means++."""
    count, trials = len(gram), 2 + int(math.log(k))
    power = gram.diagonal()
    between = gram.abs() if signed else gram
    distance = (power[:, None] + power[None] - 2 * between).clamp_min_(0)
    draws = torch.rand(k, restarts, trials, generator=generator, dtype=gram.dtype)
    chosen = torch.empty(restarts, k, dtype=torch.long)
    chosen[:, 0] = (draws[0, :, 0] * count).long().clamp_max_(count - 1)
    nearest = distance[chosen[:, 0]]
    rows = torch.arange(restarts)
    for step in range(1, k):
        edges = nearest.cumsum(1)
        candidates = torch.searchsorted(edges, draws[step] * edges[:, -1:]).clamp_max_(count - 1)
        closer = torch.minimum(distance[candidates], nearest[:, None])
        pick = closer.sum(2).argmin(1)
        chosen[:, step] = candidates[rows, pick]
        nearest = closer[rows, pick]
    labels = distance[chosen].argmin(1)
    signs = torch.ones(restarts, count, dtype=gram.dtype)
    if signed:
        signs[gram[chosen.gather(1, labels), torch.arange(count)] < 0] = -1
    return labels, signs


def _centres(gram: Tensor, labels: Tensor, signs: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products (R, N, k) of points with centres, squared norms (R, k) of centres, sizes (R, k)."""
    restarts, count = labels.shape
    member = torch.zeros(restarts, count, k, dtype=gram.dtype).scatter_(2, labels[:, :, None], signs[:, :, None])
    sizes = torch.zeros(restarts, k, dtype=gram.dtype).scatter_add_(1, labels, torch.ones_like(signs))
    member /= sizes.clamp_min(1)[:, None]
    cross = (gram @ member.permute(1, 0, 2).reshape(count, -1)).view(count, restarts, k).permute(1, 0, 2)
    norms = (cross * member).sum(1)
    norms[sizes == 0] = math.inf
    return cross, norms, sizes


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
