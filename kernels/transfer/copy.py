"""Copy: ΔW_t = ΔW_s on the matched module. The baseline every other method is compared with."""

from __future__ import annotations

from ...errors import SettingsError
from ..lowrank import LowRank
from ..spectral import Subspace
from .registry import method


@method(name="copy", display="Copy", paper="none: the update as it is", needs_subspaces=False)
def copy(update: LowRank, source: Subspace | None = None, target: Subspace | None = None) -> LowRank:
    """The update unchanged; the subspaces only tell whether the shapes agree.

    Raises:
        SettingsError: the target weight has another shape.
    """
    if target is not None and update.shape != target.shape:
        raise SettingsError(
            f"cannot copy an update of shape {update.shape} onto a weight of shape {target.shape}",
            hint="Only lora-x can change sizes (experimental); distilling is the way between different architectures.",
        )
    return update
