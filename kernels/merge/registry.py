"""The list of merge methods, their options and results. Menus and the command line's choices come from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...errors import SettingsError
from ..finite import all_finite
from ..lowrank import LowRank

UNITS = ("canonical", "balanced", "paper")


@dataclass(frozen=True)
class MergeOptions:
    """What the methods may be told; each reads only what concerns it.

    units: form of LEGO's units (:mod:`..units`): "canonical", "balanced" or "paper".
    seed: of k-means (lego) and of the random masks (dare, della).
    density: share of entries kept, in (0, 1] (ties, dare, della, magnitude, knots, core-ties).
    parameter_reweighting, output_reweighting: LEGO's two corrections of the size of means (units "paper" and
        "balanced"). Canonical clusters add up, as LoRAs in a chain of loaders do, and need neither.
    restarts: starts of k-means; the best is taken.
    energy: share of ‖Σ ΔW‖² that rank "auto" keeps, in (0, 1].

    Raises:
        SettingsError: a value out of range.
    """

    units: str = "canonical"
    seed: int = 0
    density: float = 0.5
    parameter_reweighting: bool = True
    output_reweighting: bool = True
    restarts: int = 10
    energy: float = 0.95

    def __post_init__(self) -> None:
        if self.units not in UNITS:
            raise SettingsError(f"unknown form of units {self.units!r}", hint=f"Choose one of {', '.join(UNITS)}.")
        if not 0 < self.density <= 1:
            raise SettingsError(f"density must lie in (0, 1], got {self.density}")
        if not 0 < self.energy <= 1:
            raise SettingsError(f"energy must lie in (0, 1], got {self.energy}")
        if self.restarts < 1:
            raise SettingsError(f"restarts must be at least 1, got {self.restarts}")


class Merged(NamedTuple):
    """One module's result.

    update: the merged ΔW.
    error: relative Frobenius distance to the method's own result before the cut to a rank (for lego: to the sum).
    clusters: lego only: per cluster the LoRA (index into `updates`) of each of its units, rising, one entry per unit.
    labels: lego only: per unit its cluster; units LoRA by LoRA, canonical ones by falling singular value.
    """

    update: LowRank
    error: float
    clusters: list[list[int]] | None = None
    labels: list[int] | None = None


Run = Callable[[list[LowRank], "int | None", MergeOptions], Merged]


class Method(NamedTuple):
    """One way to merge several updates of one module.

    name: what the user types; display: what menus show; paper: where it comes from;
    run(updates, rank, options): `updates` one per LoRA, of one shape and any ranks, strengths folded in; `rank` the
    largest rank of the result, None for no cut (lego: the largest source's). Raises SettingsError for an empty list,
    different shapes, NaN or Inf, or a rank below 1.
    """

    name: str
    display: str
    paper: str
    run: Run


METHODS: dict[str, Method] = {}


def method(*, name: str, display: str, paper: str) -> Callable[[Run], Run]:
    """Register a function run(updates, rank, options) as a merge method; what it is given is checked first."""

    def register(run: Run) -> Run:
        def checked(updates: list[LowRank], rank: int | None = None, options: MergeOptions | None = None) -> Merged:
            check(updates, rank)
            return run(updates, rank, options or MergeOptions())

        METHODS[name] = Method(name, display, paper, checked)
        return run

    return register


def check(updates: list[LowRank], rank: int | None = None) -> None:
    """Raises SettingsError for updates that cannot be merged or an impossible rank."""
    if not updates:
        raise SettingsError("nothing to merge: the list of updates is empty")
    shapes = sorted({update.shape for update in updates})
    if len(shapes) > 1:
        raise SettingsError(f"updates of different shapes cannot be merged: {', '.join(map(str, shapes))}")
    if rank is not None and rank < 1:
        raise SettingsError(f"rank must be at least 1, got {rank}")
    if not all(all_finite(factor) for update in updates for factor in update):
        raise SettingsError("an update contains NaN or Inf", hint="The file is damaged or was trained to divergence.")
