"""``transfers`` of a recipe: LoRAs of one base for others, by each method and in each layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import choices
from ..errors import GraftError
from ..jobs.transfer.many import Job
from ..jobs.transfer.transfer import TransferSettings
from ..kernels.spectral import SubspaceSize
from .document import Table
from .reader import LAYOUTS, Reader

METHODS = ("auto", *choices.Transfer.methods)
_SETTINGS = {
    "threshold": (float,),
    "below_threshold": (str,),
    "match_blocks": (str,),
    "fill": (str,),
    "rank": (int,),
    "strength": (float,),
}


@dataclass(frozen=True)
class Stage:
    """LoRAs of one base for another by one method, in one layout. files: input → output."""

    title: str
    job: Job
    files: dict[Path, Path]


def read_transfer(reader: Reader, table: Table) -> list[Stage]:
    """The stages of one entry: one for each target, method and layout."""
    pairing = reader.pairing(table)
    if pairing is None:
        return []
    above, loras, source, targets = pairing
    methods = reader.words(table, "methods", METHODS) or [choices.Transfer.method]
    layouts = reader.words(table, "layouts", LAYOUTS) or [choices.File.layout]
    given = reader.settings(table, _SETTINGS, TransferSettings)
    sizes = {name: table.value(name, kind) for name, kind in (("k_share", float), ("k", int), ("energy", float))}
    how: dict[str, Any] = {"dtype": reader.menu(table, "dtype", choices.File.dtypes), "report": reader.report(table)}
    table.end()
    ways = [(reader.base(target), method, layout) for target in targets for method in methods for layout in layouts]
    try:
        size = SubspaceSize(k=sizes["k"], share=sizes["k_share"], energy=sizes["energy"])
    except GraftError as error:
        reader.mistakes.of(table.entry, error)
        return []
    stages = []
    for there, method, layout in ways:
        if source is None or there is None or given is None:
            reader.find(loras, reader.output)  # what is wrong there is told all the same
            continue
        settings = TransferSettings(method=method, size=size, **given)
        job = Job(source[1], there[1], settings, layout=layout, cache=reader.cache, device=reader.device, **how)
        way = method if layout == choices.File.layout else f"{method}-{layout}"
        files = reader.find(loras, above / there[0] / way)
        for file, output in files.items():
            reader.claim(table.entry, output, "transfer", reader.relative(file), job)
        stages.append(Stage(f"{source[0]} → {there[0]}, {way}", job, files))
    return stages
