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

from .blas import as_torch

try:
    from scipy.linalg import eigh as _partial_eigh
except ImportError:
    _partial_eigh = None
# Whether the eigen-solver can stop at the top k.
PARTIAL = _partial_eigh is not None

# Largest share of the k directions that may be lost: |ΔΦ| stays below twice that, and in practice far below.
LOSS = 5e-4
# Largest departure from orthonormal columns.
SKEW = 1e-4
# Pairs tested one by one: this many next to the cut, where convergence comes last, and as many spread over the rest.
PROBES = 6


class Triplets(NamedTuple):
    """left (m, k), values (k,) falling, right (n, k): float32, on the weight's device."""

    left: Tensor
    values: Tensor
    right: Tensor


def gram(weight: Tensor, k: int) -> Triplets | None:
    """Top k triplets of an (m, n) float32 weight, by the Gram matrix of its shorter side; None when not trusted."""
    for dtype in (torch.float32, torch.float64):
        _, vectors = top_eigh(gram_matrix(weight.to(dtype)), k)
        found = finish(weight, vectors.float(), k)
        if trusted(weight, found):
            return found
    return None


def gram_matrix(weight: Tensor, blocks: int = 8) -> Tensor:
    """W Wᵀ or WᵀW, whichever is smaller; only the lower block triangle is filled (9/16 of the work with 8 blocks)."""
    rows = weight if weight.shape[0] <= weight.shape[1] else weight.T
    size = rows.shape[0]
    product = rows.new_zeros(size, size)
    edges = [size * i // blocks for i in range(blocks + 1)]
    for start, end in zip(edges, edges[1:], strict=False):
        torch.mm(rows[start:end], rows[:end].T, out=product[start:end, :end])
    return product


def gram_times(x: Tensor, rows: Tensor) -> Tensor:
    """x R Rᵀ for x (b, s) and R (s, l) without the s x s product; R is read once, in pieces that fit the cache."""
    piece = rows.shape[1] if rows.device.type != "cpu" or rows.numel() < 1 << 23 else 256
    total = x.new_zeros(x.shape)
    for part in rows.split(piece, 1):
        total.addmm_(x @ part, part.T)
    return total


def top_eigh(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues, falling, and their eigenvectors (d, count); reads the lower triangle."""
    size = matrix.shape[0]
    if _partial_eigh is not None and matrix.device.type == "cpu" and 2 * count < size:
        bounds = (size - count, size - 1)
        # The transpose is what Fortran reads without a copy; its upper triangle is our lower one.
        with as_torch():
            values, vectors = _partial_eigh(
                matrix.numpy().T,
                subset_by_index=bounds,
                driver="evr",
                lower=False,
                check_finite=False,
                overwrite_a=True,
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


def trusted(weight: Tensor, found: Triplets) -> bool:
    """Whether the triplets span the top k, tested in float64 on a sample of them.

    Let A be W Wᵀ or WᵀW on the shorter side, x a found vector, θ = σ². The residual r = A x - θ x, cut to what leaves
    the found span, would tilt x by φ in a further Rayleigh-Ritz step on span(x, r): tan 2φ = 2 ‖r‖ / (θ - ρ) with
    the Rayleigh quotient ρ of r. Σ sin² φ, scaled up from the sample, estimates how many directions are lost; it must
    stay below LOSS · k. Residuals of the size that rounding leaves in any float32 decomposition are forgiven.
    """
    k = len(found.values)
    largest, smallest = float(found.values[0]), float(found.values[-1])
    if not smallest > 1e-6 * largest:  # Also catches NaN.
        return False
    if max(_skew(found.left), _skew(found.right)) > SKEW:
        return False
    wide = weight.shape[0] <= weight.shape[1]
    rows = weight if wide else weight.T
    short, long = (found.left.T, found.right.T) if wide else (found.right.T, found.left.T)
    edge, others = min(PROBES, k), min(PROBES, k - min(PROBES, k))
    sample = [(k - edge) * i // others for i in range(others)] + list(range(k - edge, k))
    x, y, sigma = short[sample].double(), long[sample].double(), found.values[sample].double()[:, None]
    square, missed = torch.zeros_like(x), x.new_zeros(len(x))
    for part, image in zip(rows.split(1024, 1), y.split(1024, 1), strict=True):
        part = part.double()
        found_image = x @ part
        square.addmm_(found_image, part.T)
        missed += (found_image - sigma * image).square().sum(1)
    if bool((missed.sqrt() > 1e-3 * sigma[:, 0]).any()):
        return False
    residual = (square - sigma.square() * x).float()
    residual -= (residual @ short.T) @ short
    size = torch.linalg.vector_norm(residual, dim=1)
    # Rayleigh quotient of the residual's direction: tells the gap that holds the tilt back.
    direction = residual / size.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    quotient = torch.linalg.vector_norm(direction @ rows, dim=1).square()
    excess = (size - 2e-6 * largest * sigma[:, 0]).clamp_min(0)
    lost = torch.sin(torch.atan2(2 * excess, sigma[:, 0].square() - quotient) / 2).square()
    return float(lost[others:].sum() + (lost[:others].mean() * (k - edge) if others else 0)) <= LOSS * k


def _skew(basis: Tensor) -> float:
    product = basis.T @ basis
    return float((product - torch.eye(len(product), device=product.device)).abs().max())
