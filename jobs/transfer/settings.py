"""How to transfer: the choices of one call, checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from ... import choices
from ...errors import SettingsError
from ...kernels.spectral import SubspaceSize
from ...kernels.transfer import METHODS


@dataclass(frozen=True)
class TransferSettings:
    """How to transfer.

    method: "auto" or a name in ``kernels.transfer.METHODS``.
    size: of the subspaces that are compared and projected on.
    threshold: mean of Φ_l and Φ_r from which a module is carried over by the method; 0 takes every module. LoRA-X names
        no such level; ProLoRA (arXiv 2506.04244) uses 0.8.
    below_threshold: what becomes of the others: "leave-out", as in LoRA-X (arXiv 2501.16559: "we employ the adapter
        only in the layers of the target model that exhibit an acceptable level of subspace similarity"), or "copy".
        "auto" leaves out with lora-x and copies with the rest. Plain copying keeps to the threshold only on
        "leave-out".
    rank: largest rank of a module to write; None for no limit. What truncation loses is reported.
    strength: factor on the whole update.
    match_blocks: where depths differ, "auto" takes the published pruning map if there is one and searches otherwise,
        "search" always searches.
    fill: what blocks of a deeper target get that no block of the source feeds: nothing ("none"), or the update of the
        most similar one ("nearest").

    Raises:
        SettingsError: unknown method, or a value out of range.
    """

    method: str = choices.Transfer.method
    size: SubspaceSize = field(default_factory=SubspaceSize)
    threshold: float = choices.Transfer.threshold
    rank: int | None = choices.Transfer.rank
    strength: float = choices.Transfer.strength
    below_threshold: str = choices.Transfer.below_threshold
    match_blocks: str = choices.Transfer.match_blocks
    fill: str = choices.Transfer.fill

    def __post_init__(self) -> None:
        if self.method != "auto" and self.method not in METHODS:
            raise SettingsError(f"unknown method {self.method!r}", hint=f"Choose auto, {', '.join(METHODS)}.")
        if self.rank is not None and self.rank < 1:
            raise SettingsError(f"the rank must be at least 1, got {self.rank}")
        if not 0 <= self.threshold <= 1:
            raise SettingsError(f"the threshold must lie between 0 and 1, got {self.threshold}")
        for name, words in (("below_threshold", "filters"), ("match_blocks", "matchings"), ("fill", "fills")):
            value, known = getattr(self, name), getattr(choices.Transfer, words)
            if value not in known:
                raise SettingsError(f"unknown {name} {value!r}", hint=f"Choose {', '.join(known)}.")

    @property
    def methods(self) -> tuple[str, ...]:
        """Those to compute: the copy beside any other, and for "auto" what it chooses from."""
        return ("copy", "lora-x") if self.method == "auto" else tuple(dict.fromkeys(("copy", self.method)))

    @property
    def needs_subspaces(self) -> bool:
        """Whether one of these, or the threshold, looks at the subspaces of the bases' weights."""
        return self.filters_copies or any(METHODS[method].needs_subspaces for method in self.methods)

    @property
    def filters_copies(self) -> bool:
        """Whether the threshold is held against modules that are copied, too."""
        return self.threshold > 0 and self.below_threshold == "leave-out"

    def leaves_out(self, method: str) -> bool:
        """Whether modules under the threshold are left out when the method is this one."""
        return self.below_threshold == "leave-out" or (self.below_threshold == "auto" and method == "lora-x")
