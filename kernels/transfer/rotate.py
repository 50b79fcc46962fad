"""Rotate: turn the update with the smallest rotation that carries the source's subspace onto the target's.

Ours. The rotation is the direct rotation of Davis and Kahan (SIAM J. Numer. Anal. 7, 1970): in each
principal plane, spanned by one principal vector of either subspace, turn by the principal angle; leave everything
orthogonal to those planes as it is. Left and right subspaces have their own rotation: ΔW_t = R_l ΔW R_rᵀ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..lowrank import LowRank
from ..spectral import Subspace
from .registry import method, need_one_shape


@method(name="rotate", display="Rotate", paper="LoRA Graft: direct rotation of Davis and Kahan (1970)")
def rotate(update: LowRank, source: Subspace, target: Subspace) -> LowRank:
    """B_t = R_l B, A_t = A R_rᵀ. Keeps rank and norm, is the identity on the same base, continuous in the target.

    Raises:
        SettingsError: the target weight has another shape.
    """
    need_one_shape("rotate", update, target)
    return LowRank(turn(update.up, source.left, target.left), turn(update.down.T, source.right, target.right).T)


def turn(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """R x, with R the direct rotation of span(start) onto span(end); no d x d matrix is formed.

    With principal vectors p (of start), q (of end), cosine c, sine s and w = (q - c p)/s, R turns p to q and w to
    c w - s p. On x this is x + Σ (q - p)(pᵀx) - (s p + (1 - c) w)(wᵀx).

    Args:
        x: (d, r).
        start, end: (d, k) with orthonormal columns. Of the wider one the first columns count, as many as the other has.

    A pair closer than rounding stays where it is. At a right angle the plane is still well defined, only the choice
    of partner among equal angles is not.
    """
    k = min(start.shape[1], end.shape[1])
    start, end = start[:, :k].double(), end[:, :k].to(start.device).double()
    a, _, bt = torch.linalg.svd(start.T @ end)
    p, q = start @ a, end @ bt.T
    # Sine and cosine from the vectors themselves: exact for tiny angles, and c² + s² = 1 whatever the rounding.
    cosine = (p * q).sum(0)
    across = q - p * cosine
    sine = torch.linalg.vector_norm(across, dim=0)
    size = torch.hypot(cosine, sine)
    cosine, sine = cosine / size, sine / size
    moving = sine > 1e-9
    w = torch.where(moving, across / torch.where(moving, sine * size, 1.0), 0.0)
    cosine, sine = torch.where(moving, cosine, 1.0), torch.where(moving, sine, 0.0)
    y = x.to(p)
    along, aside = p.T @ y, w.T @ y
    turned = y + p @ ((cosine - 1)[:, None] * along - sine[:, None] * aside)
    turned += w @ (sine[:, None] * along + (cosine - 1)[:, None] * aside)
    return turned.to(x)
