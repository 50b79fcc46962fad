"""The heat map as plain values, for a page that draws it itself."""

from __future__ import annotations

import numpy as np

from ..jobs.transfer.report import DECISION_LEFT_OUT, Report
from .grid import rows
from .heatmap import panels


def cells(report: Report) -> dict | None:
    """What :func:`heatmap.heatmap` shows, as JSON can hold it; None when nothing was measured.

    ``rows`` and ``columns`` are names; ``panels`` a list of ``title`` and ``values`` (rows × columns, None where there
    is no figure); ``modules`` the [row, column] of each module, in the report's order; ``left_out`` the [row, column]
    of cells with modules under the threshold.
    """
    measured = panels(report)
    if not measured:
        return None
    names, columns = measured[0][1][:2]
    line = {id(module): y for y, modules in enumerate(rows(report).values()) for module in modules}
    places = [[line[id(module)], columns.index(module.role or "other")] for module in report.modules]
    marked = {tuple(place) for place, m in zip(places, report.modules, strict=True) if m.decision == DECISION_LEFT_OUT}
    return {
        "rows": names,
        "columns": columns,
        "panels": [{"title": title, "values": _plain(table)} for title, (_, _, table) in measured],
        "modules": places,
        "left_out": sorted(map(list, marked)),
    }


def _plain(table: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in line] for line in table]
