"""ProLoRA: carry the part inside the subspaces and the part outside both, drop what crosses.

Source: ProLoRA (arXiv 2506.04244), the sum of its subspace and null-space projections:
ΔW_t = P_t P_s ΔW Q_s Q_t + (I - P_t)(I - P_s) ΔW (I - Q_s)(I - Q_t), with P = U Uᵀ and Q = V Vᵀ.
"""

from __future__ import annotations

from torch import Tensor

from ..lowrank import LowRank, concatenate
from ..spectral import Subspace
from .registry import method, need_one_shape


@method(name="prolora", display="ProLoRA", paper="ProLoRA, arXiv 2506.04244")
def prolora(update: LowRank, source: Subspace, target: Subspace) -> LowRank:
    """Rank doubles. Not the identity on the same base: the blocks P ΔW (I - Q) and (I - P) ΔW Q are dropped.

    Raises:
        SettingsError: the target weight has another shape.
    """
    need_one_shape("prolora", update, target)
    up = (_project(_project(update.up, source.left), target.left), _outside(update.up, source.left, target.left))
    row = update.down.T
    down = (_project(_project(row, source.right), target.right), _outside(row, source.right, target.right))
    return concatenate([LowRank(b, a.T) for b, a in zip(up, down, strict=True)])


def _project(x: Tensor, basis: Tensor) -> Tensor:
    basis = basis.to(x)
    return basis @ (basis.T @ x)


def _outside(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    x = x - _project(x, first)
    return x - _project(x, second)
