"""Many merges, each its own LoRAs into its own file, in parallel processes of this machine or of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ... import adapters, choices
from ...bases import open_base
from ...io.atomic import sweep
from ...io.outputs import claim, staged
from ..names import names_to_write
from ..processes import Engine, LocalEngine
from ..progress import Progress, silent
from .merge import MergeSettings, merge

Source = tuple[Path, float, float]  # a file, its strength on the model and on the text encoders


@dataclass(frozen=True)
class Order:
    """One merge.

    base: for DoRA and the like, and odd names; None without.
    layout: as :func:`..adapters.write` takes it.
    report: suffix of a report beside the output, ".md" or ".json"; None for none.
    """

    loras: tuple[Source, ...]
    output: Path
    settings: MergeSettings = field(default_factory=MergeSettings)
    base: Path | None = None
    layout: str = choices.File.layout
    report: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What became of one merge; status: "merged", "present" (the output was there and was left alone) or "failed"."""

    order: Order
    status: Literal["merged", "present", "failed"]
    error: str = ""


def merge_many(
    orders: Sequence[Order],
    *,
    engine: Engine | None = None,
    progress: Progress = silent,
    each: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Carry out every merge whose output is not there; what fails is noted and the rest goes on. In their order.

    Args:
        engine: where the work is done; processes of this machine unless another is given. With a shared one all files
            have absolute names that mean the same on every machine.
        each: called in this process with every outcome as it comes.
    """
    engine, tell = engine or LocalEngine(), each or (lambda outcome: None)
    outcomes: dict[Order, Outcome] = {}

    def ended(outcome: Outcome) -> None:
        outcomes[outcome.order] = outcome
        tell(outcome)

    for order in orders:
        if order.output.exists():
            ended(Outcome(order, "present"))
    work = [order for order in orders if order not in outcomes]
    if work:
        with engine.crew(len(work), _begin, None, device=work[0].device) as crew:
            for order, outcome, why in crew.each(carry_out, work, progress, _name):
                ended(outcome or Outcome(order, "failed", why))
        for folder in {order.output.parent for order in work}:
            sweep(folder)  # a process that was killed cannot tidy up, and those that live looked before
    return [outcomes[order] for order in orders]


def carry_out(order: Order) -> Outcome:
    """Merge and write, with the report; an output that is there meanwhile is left alone.

    Raises:
        GraftError: as :func:`.merge.merge` and :func:`..adapters.write`.
    """
    if order.output.exists():
        return Outcome(order, "present")
    beside = order.output.with_suffix(order.report) if order.report else None
    order.output.parent.mkdir(parents=True, exist_ok=True)
    claim(order.output, beside)
    base = open_base(order.base) if order.base else None
    given = [(adapters.read(file), model, clip) for file, model, clip in order.loras]
    result = merge(given, order.settings, base=base, device=order.device)
    names = names_to_write(result.adapter, order.layout, base)
    text = result.report.to_markdown() if order.report == ".md" else result.report.to_json()
    with staged({beside: text.encode()} if beside else {}, main=order.output, overwrite=False):
        adapters.write(result.adapter, order.output, layout=order.layout, names=names, provenance=result.provenance)
    return Outcome(order, "merged")


def _begin(given: None) -> None:
    """Every merge opens what it needs."""


def _name(order: Order) -> str:
    return order.output.name
