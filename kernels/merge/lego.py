"""LEGO: the units of all LoRAs, clustered, each cluster becoming one unit of the result.

Source: LoRA-LEGO (arXiv 2409.16167), section 3. In the ``paper`` and ``balanced`` forms a cluster becomes its mean,
which is shorter than its members the less they agree; parameter reweighting restores their size,
μ ← μ · mean ‖m‖_∞ / ‖μ‖_∞. Output reweighting multiplies ΔW by √(r/k), r the number of units per LoRA, so that k units
weigh as much as the r of one source. In the ``canonical`` form (:mod:`..units`) a cluster becomes the best rank-one
approximation of the sum of its members, the top singular pair of Σ b aᵀ: LoRAs that agree add up, as in a chain of
loaders. Nothing shrinks, so that neither reweighting applies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import lowrank
from ..kmeans import Clusters, kmeans
from ..lock import locked
from ..lowrank import LowRank
from ..stacked import NEGLIGIBLE, zero
from ..units import Units, units_of
from .registry import Merged, method

# Kind of centre (:mod:`..kmeans`) by form of units.
CENTRES = {"paper": "points", "balanced": "signed", "canonical": "lines"}


@method(name="lego", display="LEGO", paper="LoRA-LEGO (arXiv 2409.16167, ICLR 2025)")
def lego(
    updates: list[LowRank],
    rank: int | None = None,
    *,
    units: str = "canonical",
    seed: int = 0,
    restarts: int = 10,
    parameter_reweighting: bool = True,
    output_reweighting: bool = True,
) -> Merged:
    """k clusters of units, k = `rank` or the rank of the largest source. As many clusters as units: the exact sum.

    Args:
        units: their form, "canonical", "balanced" or "paper" (:mod:`..units`).
        seed, restarts: of k-means; the best of the starts is taken.
        parameter_reweighting, output_reweighting: the paper's two corrections of the size of means. Canonical clusters
            add up and need neither.
    """
    k = max(update.rank for update in updates) if rank is None else rank
    count = sum(update.rank for update in updates)
    if k >= count:
        owners = [i for i, update in enumerate(updates) for _ in range(update.rank)]
        return Merged(lowrank.concatenate(updates), 0.0, [[i] for i in owners], list(range(count)))
    pool = units_of(updates, units)
    if not len(pool.owner):
        return Merged(zero(pool.stacked), 0.0, [], [])
    gb, ga = pool.gb, pool.ga
    likeness = _as_matrices(gb, ga) if units == "canonical" else ga + gb
    found = kmeans(likeness, min(k, len(pool.owner)), seed=seed, restarts=restarts, kind=CENTRES[units])
    if units == "canonical":
        left, right = _top_pairs(pool, found)
    else:
        left, right = _means(pool, found, parameter_reweighting)
        if output_reweighting:
            half = (count / len(updates) / left.shape[1]) ** 0.25
            left, right = left * half, right * half
    update = pool.stacked.combined(pool.left @ left, right @ pool.right)
    return Merged(update, _distance(pool, left, right), *_listing(pool, found.labels))


def _as_matrices(gb: Tensor, ga: Tensor) -> Tensor:
    """Inner products (a_i·a_j)(b_i·b_j) of the units as rank-one matrices, each at norm √(‖a‖·‖b‖), the size of its a.

    At their full norm σ the strongest units would claim nearly all clusters.
    """
    inner = gb * ga
    size = inner.diagonal().clamp_min(1e-300).sqrt().sqrt()
    return inner / torch.outer(size, size)


def _means(units: Units, found: Clusters, reweight: bool) -> tuple[Tensor, Tensor]:
    """Coefficients (M, k), (k, M) of the clusters' means over the units; with `reweight` at the members' size."""
    labels = found.labels
    member = torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.float64)
    member[torch.arange(len(labels)), labels] = found.signs.double()
    mean = member / member.abs().sum(0)
    if reweight:
        up, down = units.stacked.doubled()
        b, a = up @ units.left, units.right @ down
        peak = torch.maximum(b.abs().amax(0), a.abs().amax(1))
        centre = torch.maximum((b @ mean).abs().amax(0), (mean.T @ a).abs().amax(1))
        mean = mean * (peak @ mean.abs()) / centre.clamp_min(1e-300)
    return mean, mean.T


@locked
def _top_pairs(units: Units, found: Clusters) -> tuple[Tensor, Tensor]:
    """Coefficients (M, k), (k, M) of each cluster's top singular pair √σ u, √σ vᵀ of Σ b aᵀ.

    With Gram matrices g_b, g_a of the members and g_a = R Rᵀ, σ² and y are the top eigenpair of Rᵀ g_b R, and
    u = B R y/σ, v = Aᵀ g_b R y/σ². Clusters of similar sizes are solved together, the smaller ones padded with zeros.
    """
    labels = found.labels
    sizes = torch.bincount(labels)
    order, starts = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    similar: dict[int, list[int]] = {}
    for cluster, size in enumerate(sizes.tolist()):
        similar.setdefault((max(size, 2) - 1).bit_length() // 2, []).append(cluster)  # up to 2, 8, 32 …
    own_left, own_right = (torch.zeros(len(labels), dtype=torch.float64) for _ in range(2))
    for clusters in similar.values():
        index = torch.arange(int(sizes[clusters].max()))
        member = index < sizes[clusters, None]
        index = order[(starts[clusters, None] + index).clamp_max_(len(labels) - 1)]
        both = (member[:, :, None] & member[:, None, :]).double()
        b, a = (gram[index[:, :, None], index[:, None, :]] * both for gram in (units.gb, units.ga))
        weights, basis = torch.linalg.eigh(a)
        half = basis * weights.clamp_min(0).sqrt()[:, None, :]
        values, vectors = torch.linalg.eigh(half.mT @ b @ half)
        sigma = values[:, -1].clamp_min(0).sqrt()
        x = half @ vectors[:, :, -1:]
        each = (a.diagonal(dim1=1, dim2=2) * b.diagonal(dim1=1, dim2=2)).sqrt()
        # A cluster whose members cancel, up to rounding, becomes nothing.
        lives = sigma > NEGLIGIBLE * each.amax(1)
        scale = torch.where(lives, sigma, 0.0)[:, None, None].sqrt()
        sigma = torch.where(lives, sigma, 1.0)[:, None, None]
        own_left[index[member]] = (x * (scale / sigma))[member][:, 0]
        own_right[index[member]] = (b @ x * (scale / sigma**2))[member][:, 0]
    left = torch.zeros(len(labels), len(sizes), dtype=torch.float64)
    right = torch.zeros(len(sizes), len(labels), dtype=torch.float64)
    every = torch.arange(len(labels))
    left[every, labels], right[labels, every] = own_left, own_right
    return left, right


def _distance(units: Units, left: Tensor, right: Tensor) -> float:
    """Relative Frobenius distance of the merged update from the sum of the units."""
    gb, ga = units.gb, units.ga
    energy = float((gb * ga).sum())  # ‖Σ ΔW‖²
    mixed = left @ right
    rest = torch.eye(len(mixed), dtype=mixed.dtype) - mixed
    return (max(float(((rest.T @ gb @ rest) * ga).sum()), 0.0) / energy) ** 0.5 if energy > 0 else 0.0


def _listing(units: Units, labels: Tensor) -> tuple[list[list[int]], list[int]]:
    """Clusters as lists of LoRAs and labels of the units in the order given, clusters numbered by their first unit."""
    order = units.position.argsort()
    names: dict[int, int] = {}
    listed = [names.setdefault(label, len(names)) for label in labels[order].tolist()]
    clusters: list[list[int]] = [[] for _ in names]
    for owner, label in zip(units.owner[order].tolist(), listed, strict=True):
        clusters[label].append(owner)
    return [sorted(cluster) for cluster in clusters], listed
