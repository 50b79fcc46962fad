"""Copy: ΔW_t = ΔW_s on the matched module. The baseline every other method is compared with."""

from __future__ import annotations

from ..lowrank import LowRank
from ..spectral import Subspace
from .registry import method, need_one_shape


@method(name="copy", display="Copy", paper="none: the update as it is", needs_subspaces=False)
def copy(update: LowRank, source: Subspace | None = None, target: Subspace | None = None) -> LowRank:
    """The update unchanged; the subspaces only tell whether the shapes agree.

    Raises:
        SettingsError: the target weight has another shape.
    """
    if target is not None:
        need_one_shape("copy", update, target)
    return update
