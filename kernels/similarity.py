"""How much of one subspace lies inside another: Φ and its chance level.

Source: LoRA-X (arXiv 2501.16559), its similarity Φ(A, B) = ‖Uᴬᵀ Uᴮ‖²_F / k. The correction for chance is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor


def phi(a: Tensor, b: Tensor) -> float:
    """Φ = ‖aᵀb‖²_F / min(k_a, k_b), in [0, 1]; 1 when one span contains the other.

    Args:
        a, b: (d, k_a) and (d, k_b) with orthonormal columns, on any devices.
    """
    a, b = _same_space(a, b)
    return phi_of(a.T @ b)


def phi_of(overlap: Tensor) -> float:
    """Φ from the (k_a, k_b) matrix aᵀb."""
    size = min(overlap.shape)
    return min(float(overlap.square().sum(dtype=torch.float64)) / size, 1.0) if size else 0.0


def chance(k: int, d: int) -> float:
    """Expected Φ between two random k-dimensional subspaces of a d-dimensional space: k/d.

    For subspaces of different sizes, k is the larger one.
    """
    return k / d


def corrected(value: float, expected: float) -> float:
    """(Φ - chance) / (1 - chance): 0 at chance level, 1 for equal spans.

    At full rank (chance = 1) Φ says nothing, and the result is 0.
    """
    return (value - expected) / (1 - expected) if expected < 1 else 0.0


def _same_space(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"subspaces of different spaces: {a.shape[0]} and {b.shape[0]} rows")
    return a, b.to(device=a.device, dtype=a.dtype)
