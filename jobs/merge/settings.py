"""What a merge is given: adapters with their strengths, and how to merge them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

from ... import choices
from ...adapters import Adapter
from ...errors import SettingsError
from ...kernels import checks
from ...kernels.merge import METHODS
from ...kernels.merge.registry import CHECKS


class Weighted(NamedTuple):
    """An adapter and its strengths, which mean what they mean in a loader, negatives included.

    model: on the denoiser; clip: on the text encoders.
    """

    adapter: Adapter
    model: float = 1.0
    clip: float = 1.0


@dataclass(frozen=True)
class MergeSettings:
    """How to merge.

    method: a name in ``kernels.merge.METHODS``.
    rank: of the result: a number; "max", the largest of a module's sources; "sum", all their ranks together; "auto",
        for each module the smallest that keeps ``energy`` of the sum. Only a number truncates concat and linear.
    energy: fraction of ‖Σ ΔW‖² that rank "auto" keeps, in (0, 1].
    units, seed, density, parameter_reweighting, output_reweighting: options of the methods' functions in
        ``kernels.merge``; each method reads its own (``METHODS[name].options``) and no others.
    dtype: of the factors, "fp16", "bf16" or "fp32"; None for the widest that came in.

    Raises:
        SettingsError: unknown method, or a value out of range.
    """

    method: str = choices.Merge.method
    rank: int | str = choices.Merge.rank
    units: str = choices.Merge.units
    seed: int = choices.Merge.seed
    density: float = choices.Merge.density
    energy: float = choices.Merge.energy
    parameter_reweighting: bool = choices.Merge.parameter_reweighting
    output_reweighting: bool = choices.Merge.output_reweighting
    dtype: str | None = choices.File.dtype

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"unknown method {self.method!r}", hint=f"Choose {', '.join(METHODS)}.")
        if isinstance(self.rank, str) and self.rank not in choices.Merge.ranks:
            raise SettingsError(
                f"unknown rank {self.rank!r}", hint=f"Choose a number, {', '.join(choices.Merge.ranks)}."
            )
        if not isinstance(self.rank, str) and self.rank < 1:
            raise SettingsError(f"the rank must be at least 1, got {self.rank}")
        if self.dtype not in (None, *choices.File.dtypes):
            raise SettingsError(f"unknown dtype {self.dtype!r}", hint=f"Choose {', '.join(choices.File.dtypes)}.")
        checks.share("energy", self.energy)
        for name in CHECKS.keys() & asdict(self).keys():
            CHECKS[name](getattr(self, name))

    def options(self) -> dict[str, object]:
        """Those that the method reads, as keyword arguments of its function."""
        return METHODS[self.method].own(asdict(self))

    def effective(self) -> dict[str, object]:
        """The settings that have a say in the result."""
        own = {"rank", "dtype", *self.options(), *(["energy"] if self.rank == "auto" else [])}
        return {name: value for name, value in asdict(self).items() if name in own}
