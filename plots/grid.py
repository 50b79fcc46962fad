"""A report as a table of figures: one row per block, one column per role."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from ..jobs.transfer.report import ModuleReport, Report

MOST_ROWS = 64  # above this, the transformer blocks inside one UNet block share a row
_SHORT = {"input_blocks": "in", "middle_block": "mid", "output_blocks": "out", "transformer_blocks": "t"}


M = TypeVar("M")


class InBlocks(Protocol[M]):
    """A report whose modules can be grouped by block."""

    def blocks(self) -> dict[str, list[M]]: ...


def rows(report: InBlocks[M]) -> dict[str, list[M]]:
    """Modules by row: one row per block, under a short name ("in.4.1.t.0"), in reading order."""
    groups = report.blocks()
    if len(groups) > MOST_ROWS:
        merged: dict[str, list[M]] = {}
        for block, modules in groups.items():
            merged.setdefault(re.sub(r"\.transformer_blocks\.\d+$", "", block), []).extend(modules)
        groups = merged
    return {short(block): groups[block] for block in ordered(list(groups))}


def grid(
    report: Report, value: Callable[[list[ModuleReport]], float | None]
) -> tuple[list[str], list[str], np.ndarray]:
    """Rows, roles, and an array (rows, roles) of ``value(modules of that cell)``; NaN where there is none."""
    groups, roles = rows(report), list(report.roles())
    table = np.full((len(groups), len(roles)), np.nan)
    for y, modules in enumerate(groups.values()):
        for x, role in enumerate(roles):
            cell = [m for m in modules if (m.role or "other") == role]
            figure = value(cell) if cell else None
            if figure is not None:
                table[y, x] = figure
    return list(groups), roles, table


def similarity(modules: list[ModuleReport]) -> float | None:
    """Mean corrected similarity of some modules."""
    known = [m.similarity for m in modules if m.similarity is not None]
    return float(np.mean(known)) if known else None


def ordered(names: list[str]) -> list[str]:
    """Families (the name without its numbers) as they first appear, their members by number: 2 before 10."""
    families = {}
    for name in names:
        families.setdefault(re.sub(r"\d+", "#", name), len(families))
    return sorted(
        dict.fromkeys(names),
        key=lambda n: (families[re.sub(r"\d+", "#", n)], [int(d) for d in re.findall("[0-9]{1,9}", n)]),
    )


def short(block: str) -> str:
    """A block's name with its long words cut: "input_blocks.4.1.transformer_blocks.0" is "in.4.1.t.0"."""
    return ".".join(_SHORT.get(word, word) for word in block.split("."))
