"""A report as a table of figures: one row per block, one column per role."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ..jobs.report import ModuleReport, Report


def ordered(names: list[str]) -> list[str]:
    """Families (the name without its numbers) as they first appear, their members by number: 2 before 10."""
    families = {}
    for name in names:
        families.setdefault(re.sub(r"\d+", "#", name), len(families))
    return sorted(
        dict.fromkeys(names),
        key=lambda n: (families[re.sub(r"\d+", "#", n)], [int(d) for d in re.findall(r"\d+", n)]),
    )


def grid(
    report: Report, value: Callable[[list[ModuleReport]], float | None]
) -> tuple[list[str], list[str], np.ndarray]:
    """Blocks, roles, and an array (blocks, roles) of ``value(modules of that cell)``; NaN where there is none."""
    blocks, roles = ordered(list(report.blocks())), list(report.roles())
    cells: dict[tuple[str, str], list[ModuleReport]] = {}
    for module in report.modules:
        cells.setdefault((module.block or "other", module.role or "other"), []).append(module)
    table = np.full((len(blocks), len(roles)), np.nan)
    for (block, role), modules in cells.items():
        figure = value(modules)
        if figure is not None:
            table[blocks.index(block), roles.index(role)] = figure
    return blocks, roles, table


def similarity(modules: list[ModuleReport]) -> float | None:
    """Mean corrected similarity of some modules."""
    known = [m.similarity for m in modules if m.similarity is not None]
    return float(np.mean(known)) if known else None
