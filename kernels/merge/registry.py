"""The list of merge methods and of their options, both read off the functions themselves.

A method is a plain function ``name(updates, rank=None, *, option=default, …)``. What its signature holds after the star
are its options: menus, nodes, command line and reports ask :attr:`Method.options` which method reads what.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec

from ... import choices
from ...errors import SettingsError
from .. import checks
from ..finite import all_finite
from ..lowrank import LowRank

# What an option's value must be, wherever an option of that name occurs; other options their functions check.
CHECKS: dict[str, Callable[[Any], None]] = {
    "density": partial(checks.share, "density"),
    "restarts": partial(checks.at_least_one, "restarts"),
    "units": partial(checks.one_of, "form of units", choices=choices.Merge.unit_forms),
}
Options = ParamSpec("Options")


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


@dataclass(frozen=True)
class Method:
    """One way to merge several updates of one module.

    name: what the user types; display: what menus show; paper: where it comes from;
    run(updates, rank=None, **options): the checked function, see :func:`method`; options: its options with their
    defaults, in the order of its signature.
    """

    name: str
    display: str
    paper: str
    run: Callable[..., Merged]
    options: Mapping[str, Any]

    def own(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of some settings that are options of this method."""
        return {name: settings[name] for name in self.options if name in settings}


METHODS: dict[str, Method] = {}


def method(*, name: str, display: str, paper: str) -> Callable[[Callable[Options, Merged]], Callable[Options, Merged]]:
    """Make a function (updates, rank=None, *, options) → Merged a merge method: checked when called, and registered.

    `updates`: one per LoRA, of one shape (m, n) and any ranks, strengths folded in; `rank`: the largest rank of the
    result, None for no cut (lego: the largest source's).

    The function then raises:
        SettingsError: an empty list, factors that do not fit, different shapes, NaN or Inf, a rank below 1, an option
            out of its range.
        TypeError: an option that the method does not have.
    """

    def register(run: Callable[Options, Merged]) -> Callable[Options, Merged]:
        @wraps(run)
        def checked(updates: Sequence[LowRank], rank: int | None = None, **options: Any) -> Merged:
            updates = list(updates)
            check(updates, rank)
            for option, value in options.items():
                if option in CHECKS:
                    CHECKS[option](value)
            return run(updates, rank, **options)  # type: ignore[call-arg]

        METHODS[name] = Method(name, display, paper, checked, options_of(run))
        return checked  # type: ignore[return-value]

    return register


def options_of(run: Callable[..., object]) -> dict[str, Any]:
    """The keyword-only arguments of a function and their defaults.

    Raises:
        TypeError: one without a default, which nobody could choose from a menu.
    """
    found = {p.name: p.default for p in inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY}
    missing = [name for name, default in found.items() if default is inspect.Parameter.empty]
    if missing:
        raise TypeError(f"option {missing[0]} of merge method {run.__name__} has no default")
    return found


def check(updates: Sequence[LowRank], rank: int | None = None) -> None:
    """Raises SettingsError for updates that cannot be merged or an impossible rank."""
    if not updates:
        raise SettingsError("nothing to merge: the list of updates is empty")
    for up, down in updates:
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
            raise SettingsError(
                f"factors of shapes {tuple(up.shape)} and {tuple(down.shape)} make no update",
                hint="LowRank takes up (m, r) and down (r, n); LowRank.of folds alpha in and flattens kernels.",
            )
    shapes = sorted({update.shape for update in updates})
    if len(shapes) > 1:
        raise SettingsError(f"updates of different shapes cannot be merged: {', '.join(map(str, shapes))}")
    if rank is not None:
        checks.at_least_one("rank", rank)
    if not all(all_finite(factor) for update in updates for factor in update):
        raise SettingsError("an update contains NaN or Inf", hint="The file is damaged or was trained to divergence.")
