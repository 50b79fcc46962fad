"""Many orders, each for one file of its own, carried out in parallel processes of this machine or of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from ..io.atomic import sweep
from .processes import Engine
from .progress import Progress, silent


class HasOutput(Protocol):
    """An order; hashable, and sent to other processes."""

    @property
    def output(self) -> Path: ...

    @property
    def device(self) -> str: ...


Order = TypeVar("Order", bound=HasOutput)


@dataclass(frozen=True)
class Outcome(Generic[Order]):
    """What became of one order; status: "done", "present" (the output was there and was left alone) or "failed"."""

    order: Order
    status: Literal["done", "present", "failed"]
    error: str = ""


def carry_out_all(
    orders: Sequence[Order],
    task: Callable[[Order], bool],
    *,
    engine: Engine,
    progress: Progress = silent,
    each: Callable[[Outcome[Order]], None] | None = None,
) -> list[Outcome[Order]]:
    """Carry out every order whose output is not there; what fails is noted and the rest goes on. In their order.

    Args:
        task: a function of a module: makes and writes the output, and says whether it did, or found it there.
        engine: where the work is done. With a shared one all files have absolute names that mean the same on every
            machine.
        each: called in this process with every outcome as it comes.
    """
    tell = each or (lambda outcome: None)
    outcomes: dict[Order, Outcome[Order]] = {}

    def ended(outcome: Outcome[Order]) -> None:
        outcomes[outcome.order] = outcome
        tell(outcome)

    for order in orders:
        if order.output.exists():
            ended(Outcome(order, "present"))
    work = [order for order in orders if order not in outcomes]
    if work:
        with engine.crew(len(work), _begin, None, device=work[0].device) as crew:
            for order, made, why in crew.each(task, work, progress, _name):
                ended(Outcome(order, "failed", why) if why else Outcome(order, "done" if made else "present"))
        for folder in {order.output.parent for order in work}:
            sweep(folder)  # a process that was killed cannot tidy up, and those that live looked before
    return [outcomes[order] for order in orders]


def _begin(given: None) -> None:
    """Every order opens what it needs."""


def _name(order: HasOutput) -> str:
    return order.output.name
