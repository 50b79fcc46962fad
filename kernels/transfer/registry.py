"""The list of transfer methods. The nodes' menus and the command line's choices come from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...errors import SettingsError
from ..lowrank import LowRank
from ..spectral import Subspace

Run = Callable[[LowRank, Subspace, Subspace], LowRank]


class Method(NamedTuple):
    """One way to move an update ΔW from a source base to a target base.

    name: what the user types; display: what menus show; paper: where it comes from;
    run(update, source, target) -> update of the target, in factored form;
    needs_subspaces: False when the result does not depend on the two subspaces.
    """

    name: str
    display: str
    paper: str
    run: Run
    needs_subspaces: bool


METHODS: dict[str, Method] = {}


def method(*, name: str, display: str, paper: str, needs_subspaces: bool = True) -> Callable[[Run], Run]:
    """Register a function run(update, source, target) as a transfer method."""

    def register(run: Run) -> Run:
        METHODS[name] = Method(name, display, paper, run, needs_subspaces)
        return run

    return register


def need_one_shape(name: str, update: LowRank, target: Subspace) -> None:
    """Raises SettingsError when the target weight has another shape than the update."""
    if update.shape != target.shape:
        raise SettingsError(
            f"{name} cannot move an update of shape {update.shape} to a weight of shape {target.shape}",
            hint="Only lora-x can change sizes (experimental); distilling is the way between different architectures.",
        )
