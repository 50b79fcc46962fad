"""Singular subspaces from the smaller Gram matrix, and the parts every fast route shares.

The Gram matrix has the squared singular values as eigenvalues, and the top k of them come from a partial symmetric
eigen-solver (LAPACK syevr through SciPy where it is installed; else a full one). Squaring halves the digits, so the
vectors pass a Rayleigh-Ritz step on the weight itself and a residual test in float64; what fails is done again with a
float64 Gram matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

try:
    from scipy.linalg import eigh as _partial_eigh
except ImportError:
    _partial_eigh = None

# Largest share of the k directions that may be lost: |ΔΦ| stays below twice that, and in practice far below.
LOSS = 5e-4
# Largest departure from orthonormal columns.
SKEW = 1e-4


class Triplets(NamedTuple):
    """left (m, k), values (k,) falling, right (n, k): float32, on the weight's device."""

    left: Tensor
    values: Tensor
    right: Tensor


def gram(weight: Tensor, k: int) -> Triplets | None:
    """Top k triplets of an (m, n) float32 weight, by the Gram matrix of its shorter side; None when not trusted."""
    for dtype in (torch.float32, torch.float64):
        values, vectors = top_eigh(gram_matrix(weight.to(dtype)), min(k + 1, *weight.shape))
        found = finish(weight, vectors[:, :k].float(), k)
        after = float(values[k].clamp_min(0)) ** 0.5 if len(values) > k else 0.0
        if trusted(weight, found, after):
            return found
    return None


def gram_matrix(weight: Tensor, blocks: int = 4) -> Tensor:
    """W Wᵀ or WᵀW, whichever is smaller; only the lower block triangle is filled (5/8 of the work with 4 blocks)."""
    rows = weight if weight.shape[0] <= weight.shape[1] else weight.T
    size = rows.shape[0]
    product = rows.new_zeros(size, size)
    edges = [size * i // blocks for i in range(blocks + 1)]
    for start, end in zip(edges, edges[1:], strict=False):
        torch.mm(rows[start:end], rows[:end].T, out=product[start:end, :end])
    return product


def top_eigh(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues, falling, and their eigenvectors (d, count); reads the lower triangle."""
    size = matrix.shape[0]
    if _partial_eigh is not None and matrix.device.type == "cpu" and 2 * count < size:
        bounds = (size - count, size - 1)
        values, vectors = _partial_eigh(
            matrix.numpy(), subset_by_index=bounds, driver="evr", lower=True, check_finite=False, overwrite_a=True
        )
        return torch.from_numpy(values[::-1].copy()), torch.from_numpy(vectors[:, ::-1].copy())
    values, vectors = torch.linalg.eigh(matrix, UPLO="L")
    return values[-count:].flip(0), vectors[:, -count:].flip(1)


def finish(weight: Tensor, vectors: Tensor, k: int) -> Triplets:
    """Rayleigh-Ritz: the singular triplets of the weight within a span of its shorter side.

    Args:
        weight: (m, n).
        vectors: (min(m, n), >= k) orthonormal columns that contain the wanted span up to errors.
    """
    wide = weight.shape[0] <= weight.shape[1]
    image = weight.T @ vectors if wide else weight @ vectors
    _, turn = torch.linalg.eigh((image.T @ image).double())
    turn = turn[:, -k:].flip(1).float()
    short, long = vectors @ turn, image @ turn
    values = torch.linalg.vector_norm(long, dim=0)
    long = long / values.clamp_min(torch.finfo(torch.float32).tiny)
    return Triplets(short, values, long) if wide else Triplets(long, values, short)


def trusted(weight: Tensor, found: Triplets, after: float) -> bool:
    """Whether the triplets span the top k, tested in float64.

    For a pair with W v = σ u and residual ρ = ‖Wᵀu - σv‖ the sine of its angle to the true span is at most
    σρ / (σ² - σ_{k+1}²) (Davis and Kahan 1970). The squared sines over all pairs, the number of directions lost, must
    stay below LOSS · k. The pairs next to the cut, where the gap is small, are tested one by one; the others
    together, by random combinations whose expected squared residual is the sum of theirs.

    Args:
        after: an estimate of σ_{k+1}, 0 when there is none.
    """
    left, values, right = (x.double() for x in found)
    k = len(values)
    if not bool(torch.isfinite(values).all()) or float(values[-1]) <= 1e-6 * float(values[0]):
        return False
    if max(_skew(found.left), _skew(found.right)) > SKEW:
        return False
    edge = min(16, k)
    mix = torch.eye(k, dtype=torch.float64)[:, k - edge :]
    if k > edge:
        signs = torch.randint(0, 2, (k - edge, 8), generator=torch.Generator().manual_seed(k)).double() * 2 - 1
        mix = torch.cat([mix, torch.cat([signs, torch.zeros(edge, 8, dtype=torch.float64)])], 1)
    mix = mix.to(weight.device)
    wide = weight.double()
    residual = wide.T @ (left @ mix) - right @ (values[:, None] * mix)
    forward = wide @ (right @ mix) - left @ (values[:, None] * mix)
    # Squared residual of each edge pair, and of all the others together.
    squares = residual.square().sum(0) + forward.square().sum(0)
    gaps = (values.square() - after**2).clamp_min(1e-12 * float(values[0]) ** 2) / values
    lost = (squares[:edge] / gaps[k - edge :].square()).clamp_max(1).sum()
    if k > edge:
        lost = lost + squares[edge:].mean() / gaps[k - edge - 1].square()
    return float(lost) <= LOSS * k


def _skew(basis: Tensor) -> float:
    product = basis.T @ basis
    return float((product - torch.eye(len(product), device=product.device)).abs().max())
