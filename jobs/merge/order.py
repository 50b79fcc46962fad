"""One of many merges: its own LoRAs into its own file. :mod:`..orders` carries out all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ... import adapters, choices
from ...bases import open_base
from ..names import names_to_write
from ..results import claim_result, write_result
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


def carry_out(order: Order) -> bool:
    """Merge and write, with the report; False where an output that is there meanwhile is left alone.

    Raises:
        GraftError: as :func:`.merge.merge` and :func:`..adapters.write`.
    """
    if order.output.exists():
        return False
    claim_result(order.output, order.report)
    base = open_base(order.base) if order.base else None
    given = [(adapters.read(file), model, clip) for file, model, clip in order.loras]
    result = merge(given, order.settings, base=base, device=order.device)
    names = names_to_write(result.adapter, order.layout, base)
    write_result(result, order.output, order.report, layout=order.layout, names=names)
    return True
