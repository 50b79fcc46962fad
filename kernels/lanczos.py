"""Block Lanczos for the top singular subspace of a weight, with full reorthogonalisation.

Source: Golub and Underwood, "The block Lanczos method for computing eigenvalues" (1977), on W Wᵀ or WᵀW, whichever
is smaller, never formed. Every new block is made orthogonal to all before it, so that no copies appear; the basis
grows until the wanted Ritz vectors hardly use its newest block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .gram import LOSS, Triplets, finish, gram_times, top_eigh, trusted

SEED = 20250116


def lanczos(weight: Tensor, k: int) -> Triplets | None:
    """Top k triplets of an (m, n) float32 weight; None when they do not converge or fail the test.

    The start is random with a fixed seed: the same weight gives the same result.
    """
    rows = weight if weight.shape[0] <= weight.shape[1] else weight.T
    size = rows.shape[0]
    block = block_size(k, weight.device.type)
    limit = min(largest_basis(k, block), size - block) // block * block
    if limit < k + 2 * block:
        return None
    basis = weight.new_empty(limit + block, size)
    tri = weight.new_zeros(limit, limit)
    start = torch.randn(size, block, generator=torch.Generator().manual_seed(SEED))
    basis[:block] = torch.linalg.qr(start)[0].T.to(weight)
    check, done, enough = first_basis(k), 0, LOSS * k / 8
    while done < limit:
        end = done + block
        fresh = gram_times(basis[done:end], rows)
        # Three-term recurrence, then one pass over the whole basis for what rounding left.
        near = basis[max(done - block, 0) : end]
        overlap = fresh @ near.T
        tri[done:end, max(done - block, 0) : end] = overlap
        fresh -= overlap @ near
        fresh -= (fresh @ basis[:end].T) @ basis[:end]
        vectors, coupling = torch.linalg.qr(fresh.T)
        if float(coupling.diagonal().abs().min()) <= 1e-5 * float(tri[0, 0].abs()):
            return None  # An invariant subspace: the weight has too low a rank for this route.
        basis[end : end + block] = vectors.T
        done = end
        if done >= check:
            # top_eigh may overwrite what it gets.
            _, ritz = top_eigh(tri[:done, :done].clone(), k)
            # What the newest block added to the span. The rest still missing is a few times as much, and falls faster
            # than exponentially.
            added = float(ritz[done - block :].square().sum())
            if added <= enough:
                found = finish(weight, basis[:done].T @ ritz, k)
                return found if trusted(weight, found) else None
            check += max(int(k * 0.17 * math.log(added / enough)), block)
    return None


def block_size(k: int, device: str = "cpu") -> int:
    """Vectors per step: few converge in a smaller basis, many make larger matrix products."""
    return 48 if device != "cpu" else 24 if k > 96 else 16 if k > 32 else 8


def first_basis(k: int) -> int:
    """Size of the basis at the first convergence test."""
    return 3 * k - k // 4 + 16


def largest_basis(k: int, block: int) -> int:
    """Size of the basis at which the route gives up: trained weights need 3 to 5 k."""
    return 7 * k + 8 * block
