"""Between weights of different sizes: copy the coordinates in the singular bases. Experimental.

Source: LoRA-X (arXiv 2501.16559), its case of different dimensions: a least-squares map P between the
two bases' singular vectors. With U_s of orthonormal columns its solution is P = U_t U_sᵀ, so that the map copies the
i-th singular coordinate of the source to the i-th of the target. Between models that were not derived from one
another singular vectors have no common order or sign, and the result is close to random: distil instead.
"""

from __future__ import annotations

from ..lowrank import LowRank
from ..spectral import Subspace


def map_dimensions(update: LowRank, source: Subspace, target: Subspace) -> LowRank:
    """ΔW_t = U_t (U_sᵀ ΔW V_s) V_tᵀ over the first k = min(k_s, k_t) pairs; shape of the target, rank unchanged."""
    k = min(source.left.shape[1], target.left.shape[1])
    left, right = source.left[:, :k].to(update.up), source.right[:, :k].to(update.down)
    up, down = left.T @ update.up, update.down @ right
    return LowRank(target.left[:, :k].to(up) @ up, down @ target.right[:, :k].to(down).T)
