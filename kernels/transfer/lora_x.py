"""LoRA-X: project the update onto the target's singular subspaces.

Source: LoRA-X (arXiv 2501.16559), its training-free transfer: ΔW_t = U_t U_tᵀ ΔW_s V_t V_tᵀ.
"""

from __future__ import annotations

import torch

from ..lowrank import LowRank, norm
from ..spectral import Subspace
from .map_dimensions import map_dimensions
from .registry import method


@method(name="lora-x", display="LoRA-X (project)", paper="LoRA-X, arXiv 2501.16559")
def lora_x(update: LowRank, source: Subspace, target: Subspace) -> LowRank:
    """B_t = U_t (U_tᵀ B), A_t = (A V_t) V_tᵀ; the rank stays.

    The identity on an update inside the target's subspace (the adapter the paper trains), hence idempotent; an
    ordinary LoRA keeps only about (k/m)(k/n) of its energy. When the target has another shape, the coordinates in
    the source's subspace are copied instead (:func:`.map_dimensions.map_dimensions`; experimental).
    """
    if update.shape != target.shape:
        return map_dimensions(update, source, target)
    left, right = target.left.to(update.up), target.right.to(update.down)
    return LowRank(left @ (left.T @ update.up), (update.down @ right) @ right.T)


def in_subspace_share(update: LowRank, subspace: Subspace) -> float:
    """Share of ‖ΔW‖²_F inside the subspace, ‖U Uᵀ ΔW V Vᵀ‖² / ‖ΔW‖², in [0, 1]; 0 for a zero update.

    Near 1 for a LoRA-X adapter on its own base, about (k/m)(k/n) for an ordinary LoRA. Costs O((m + n) k r).
    """
    total = norm(update)
    if total == 0:
        return 0.0
    left, right = subspace.left.to(update.up), subspace.right.to(update.down)
    inside = norm(LowRank(left.T @ update.up, update.down @ right))
    return min((inside / total) ** 2, 1.0)


def in_subspace(core: torch.Tensor, subspace: Subspace) -> LowRank:
    """The LoRA-X adapter ΔW = U ΔΣ Vᵀ for a (k,) diagonal or (k, k) matrix ΔΣ, as in the paper."""
    core = torch.diag(core) if core.dim() == 1 else core
    return LowRank(subspace.left @ core, subspace.right.T.contiguous())
