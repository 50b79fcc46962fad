"""``merges`` of a recipe: LoRAs, and what other sections make of them, into one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from .. import choices
from ..jobs.merge.merge import MergeSettings
from ..jobs.merge.order import Order, Source
from .document import Entry, Table
from .reader import LAYOUTS, Reader

_SETTINGS = {
    "method": (str,),
    "rank": (int, str),
    "units": (str,),
    "density": (float,),
    "energy": (float,),
    "seed": (int,),
    "parameter_reweighting": (bool,),
    "output_reweighting": (bool,),
    "dtype": (str,),
}


def read_merge(reader: Reader, table: Table) -> Order | None:
    """One entry; None where it is wrong."""
    name = table.get("name", str, need=True)
    base = table.get("base", str)
    opened = reader.base(base) if base else None
    sources = [source for entry in table.each("loras", str, dict, need=True) if (source := _source(reader, entry))]
    given = reader.settings(table, _SETTINGS, MergeSettings)
    layout = reader.menu(table, "layout", LAYOUTS) or choices.File.layout
    report = reader.report(table)
    table.end()
    if name is None or not reader.named(name, name.value) or given is None or not sources:
        return None
    order = Order(
        tuple(sources),
        reader.output / "merged" / f"{name.value}.safetensors",
        MergeSettings(**given),
        opened[1] if opened else None,
        layout,
        report,
        reader.device,
    )
    names = [[reader.relative(file), *strengths] for file, *strengths in sources]
    reader.claim(table.entry, order.output, "merge", names, replace(order, loras=(), output=Path("")))
    return order


def _source(reader: Reader, entry: Entry) -> Source | None:
    """A LoRA of a merge: a path, or a mapping with its strengths."""
    if isinstance(entry.value, str):
        path, model, clip = entry, 1.0, None
    else:
        table = Table(entry, reader.mistakes)
        path, model = table.get("file", str, need=True), table.value("strength", float, default=1.0)
        clip = table.value("clip", float)
        table.end()
    if path is None:
        return None
    file = reader.path(path.value)
    if not _is_file(file) and file not in reader.ids:
        reader.mistakes.add(path, "there is no such file, and nothing in this recipe makes it")
    if not all(map(math.isfinite, (model, clip or 0.0))):
        reader.mistakes.add(entry, "a strength must be a finite number")
    return file, model, model if clip is None else clip


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any file's
        return False
