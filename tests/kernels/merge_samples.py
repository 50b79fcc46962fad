"""Updates to merge, and dense float64 references that share no code with the kernels."""

import torch
from lora_graft.kernels.lowrank import LowRank
from torch import Tensor


def lora(m: int, n: int, r: int, seed: int = 0, decay: float = 0.0) -> LowRank:
    """Gaussian factors; columns of `up` fall off as i^-decay."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(m, r, generator=generator) * torch.arange(1, r + 1).float() ** -decay
    return LowRank(up, torch.randn(r, n, generator=generator) / n**0.5)


def mixed(m: int = 40, n: int = 28, ranks: tuple[int, ...] = (6, 3, 4), decay: float = 0.7) -> list[LowRank]:
    return [lora(m, n, r, seed, decay) for seed, r in enumerate(ranks)]


def entries(update: LowRank) -> Tensor:
    return update.up.double() @ update.down.double()


def exact(updates: list[LowRank]) -> Tensor:
    return sum(entries(update) for update in updates)


def svd_cut(matrix: Tensor, rank: int | None) -> Tensor:
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def trimmed(matrix: Tensor, density: float) -> Tensor:
    """mergekit's `magnitude`: sort all entries by size, keep the first int(density · size)."""
    flat = matrix.flatten()
    kept = sorted(range(len(flat)), key=lambda i: -abs(float(flat[i])))[: int(density * len(flat))]
    mask = torch.zeros_like(flat)
    mask[kept] = 1
    return (flat * mask).view_as(matrix)


def elected_mean(matrices: list[Tensor]) -> Tensor:
    """mergekit's consensus `sum` with `normalize` at equal weights: entry by entry, in plain Python."""
    result = torch.zeros_like(matrices[0])
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            values = [float(matrix[i, j]) for matrix in matrices]
            sign = 1 if sum(values) >= 0 else -1
            agreeing = [v for v in values if v * sign > 0]
            result[i, j] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return result
