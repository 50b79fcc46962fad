"""The lists of ``choices.py`` as the command line shows them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from .. import choices


def menu(name: str, words: Iterable[str]) -> type[Enum]:
    """A string enum, which typer shows as a choice."""
    return Enum(name, {word: word for word in words}, type=str)


TransferMethod = menu("TransferMethod", ("auto", *choices.Transfer.methods))
BelowThreshold = menu("BelowThreshold", choices.Transfer.filters)
MatchBlocks = menu("MatchBlocks", choices.Transfer.matchings)
Fill = menu("Fill", choices.Transfer.fills)
MergeMethod = menu("MergeMethod", choices.Merge.methods)
Units = menu("Units", choices.Merge.unit_forms)
Layout = menu("Layout", ("same", *choices.File.layouts))
Dtype = menu("Dtype", choices.File.dtypes)
Device = menu("Device", choices.Work.devices)
Objective = menu("Objective", choices.Pipelines.objectives)
Kind = menu("Kind", choices.Distill.kinds)
Modules = menu("Modules", choices.Distill.module_sets)
Schedule = menu("Schedule", choices.Distill.schedules)
Precision = menu("Precision", choices.Pipelines.precisions)
Checkpointing = menu("Checkpointing", choices.Pipelines.switches)
Effort = menu("Effort", choices.Effort.efforts)
Offload = menu("Offload", choices.Pipelines.switches)
Reports = menu("Reports", ("md", "json"))
Language = menu("Language", choices.Page.languages)
EngineName = menu("EngineName", choices.Engines.engines)
