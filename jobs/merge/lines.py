"""The lines of a merge report: one per LoRA that went in, one per module that came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class SourceLora:
    """One LoRA that went in."""

    name: str
    strength_model: float = 1.0
    strength_clip: float = 1.0
    modules: int = 0
    left_out: str = ""  # why it was not used


@dataclass
class MergedModule:
    """One module of the result. Figures are None where they mean nothing or were not measured.

    norms: ‖S‖, ‖M‖ and the root mean square of the sources' ‖ΔW_i‖ (with their strengths), with M the result and
    S = Σ ΔW_i the exact weighted sum.
    """

    key: str
    name: str = ""  # name of the weight in the base, where it is known
    block: str = ""
    role: str = ""
    shape: list[int] | None = None
    sources: list[int] = field(default_factory=list)  # numbers of the LoRAs that change it
    ranks_in: list[int] = field(default_factory=list)
    rank_out: int | None = None
    error: float | None = None  # ‖M − S‖ / ‖S‖
    cosine: float | None = None  # between M and S
    sum_norm: float | None = None
    norm: float | None = None
    source_norm: float | None = None
    clusters: int | None = None
    mixed: int | None = None  # clusters with units of several LoRAs
    pure: list[int] | None = None  # clusters of one LoRA's units alone, by LoRA
    baked: float | None = None  # relative error of making factors of a module that acts through its base weight
    decision: str = ""  # a method's name, "kept", "summed" or "cut"
    reason: str = ""

    @property
    def norm_ratio(self) -> float | None:
        """‖M‖ / ‖S‖."""
        return _ratio(self.norm, self.sum_norm)

    @property
    def norm_to_source(self) -> float | None:
        """‖M‖ against one source's norm (root mean square over the sources)."""
        return _ratio(self.norm, self.source_norm)

    def measure(self, figures: Mapping[str, float]) -> None:
        """Take over figures by the names of their fields (:func:`.figures.figures`)."""
        for name, value in figures.items():
            setattr(self, name, value)


def _ratio(value: float | None, against: float | None) -> float | None:
    return value / against if value is not None and against else None
