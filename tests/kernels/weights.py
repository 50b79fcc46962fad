"""Matrices that look like trained weights, and nastier ones."""

import torch
from torch import Tensor


def weight_like(m: int, n: int, seed: int = 0, decay: float = 0.7, noise: float = 1.0) -> Tensor:
    """A power-law spectrum of random directions above a floor of white noise."""
    generator = torch.Generator().manual_seed(seed)
    r = min(m, n)
    scales = torch.arange(1, r + 1).float() ** -decay
    signal = (torch.randn(m, r, generator=generator) * scales) @ torch.randn(r, n, generator=generator)
    floor = torch.randn(m, n, generator=generator)
    return signal / signal.norm() + noise * floor / floor.norm()


def orthonormal(m: int, k: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linalg.qr(torch.randn(m, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0].to(
        dtype
    )


def with_spectrum(m: int, n: int, values: Tensor, seed: int = 0) -> Tensor:
    k = len(values)
    return (orthonormal(m, k, seed) * values.double() @ orthonormal(n, k, seed + 1).T).float()
