"""The heat map of a report: where the two bases agree, and where the update survived."""

from __future__ import annotations

import numpy as np

from ..jobs.transfer.report import DECISION_LEFT_OUT, ModuleReport, Report, kept_energy
from .canvas import COLOURS, DPI, INK, MISSING, QUIET, figure, pixels, printable, text_style
from .grid import grid, similarity

WIDTH = 1024  # pixels
TALLEST = 2048  # pixels
WRITTEN_CELLS = 240  # up to so many cells carry their number


def heatmap(report: Report, width: int = WIDTH) -> np.ndarray:
    """Block × role: the mean of the corrected Φ_l and Φ_r, and for a transfer the kept energy beside it.

    Grey cells exist but were not measured; white ones do not exist in the adapter; hatched ones hold modules that the
    threshold left out.

    Returns:
        (height, width, 3) uint8; the height follows the number of blocks.
    """
    measured = panels(report)
    if not measured:
        return _message("No module was measured.", width)
    present = grid(report, lambda modules: float(len(modules)))[2]
    return _draw(report, measured, np.isnan(present), grid(report, _left_out)[2] > 0, width)


def panels(report: Report) -> list[tuple[str, tuple[list[str], list[str], np.ndarray]]]:
    """(title, (rows, roles, values)) of each measured quantity."""
    found = [("similarity beyond chance", grid(report, similarity))]
    if report.job == "transfer":
        found.append(("kept energy", grid(report, kept_energy)))
    return [panel for panel in found if not np.isnan(panel[1][2]).all()]


def _left_out(modules: list[ModuleReport]) -> float:
    return float(sum(m.decision == DECISION_LEFT_OUT for m in modules))


def _draw(report: Report, measured: list, absent: np.ndarray, left_out: np.ndarray, width: int) -> np.ndarray:
    blocks, roles = measured[0][1][:2]
    names = [printable(b, 28) for b in blocks]
    labels = [printable(r, 20) for r in roles]
    row = min(max(640 // len(blocks), 18), 44)
    left = 24 + int(8.2 * max(map(len, names)))
    head, foot = 76 if report.source else 44, 40 + int(7 * max(map(len, labels)))
    height = min(head + foot + row * len(blocks), TALLEST)
    sheet = figure(width, height)
    sheet.text(0.5, 1 - 18 / height, _title(report), **text_style(12.5, ha="center", va="center"))
    bar, gap = 74, 22
    span = (width - left - len(measured) * bar - (len(measured) - 1) * gap) / len(measured)
    size = min(10.0, max(6.5, 0.62 * span / len(roles)))  # neighbouring labels must not touch
    for number, (title, (_, _, table)) in enumerate(measured):
        x = left + number * (span + bar + gap)
        axes = sheet.add_axes((x / width, foot / height, span / width, (height - head - foot) / height))
        shades = _cells(axes, table, absent)
        _hatch(axes, left_out)
        axes.set_title(title, pad=8, **text_style(11.5))
        axes.set_xticks(range(len(roles)), labels, rotation=50, ha="right", rotation_mode="anchor", **text_style(size))
        step = max(1, -(-len(blocks) * 13 // (height - head - foot)))
        ticks = range(0, len(blocks), step)
        axes.set_yticks(ticks, [names[t] for t in ticks] if number == 0 else [""] * len(ticks), **text_style(10))
        _scale(sheet, shades, (x + span + 10) / width, foot / height, 14 / width, (height - head - foot) / height)
        _numbers(axes, table, shades, span / len(roles))
    grey = any((np.isnan(table) & ~absent).any() for _, (_, _, table) in measured)
    legend = [*(["grey: not measured"] if grey else []), *(["hatched: left out"] if left_out.any() else [])]
    sheet.text(12 / width, 12 / height, "; ".join(legend), **text_style(9.5, color=QUIET))
    return pixels(sheet)


def _cells(axes, table: np.ndarray, absent: np.ndarray):
    from matplotlib import colormaps

    colours = colormaps[COLOURS].with_extremes(bad=(0, 0, 0, 0))
    backdrop = np.where(absent, np.nan, 0.0)
    grey = colormaps["gray"].with_extremes(bad=(0, 0, 0, 0), under=MISSING)
    axes.imshow(backdrop, cmap=grey, vmin=1, vmax=2, aspect="auto", interpolation="nearest")
    top = max(1.0, float(np.nanmax(table)))
    shades = axes.imshow(
        np.ma.masked_invalid(table), cmap=colours, vmin=0, vmax=top, aspect="auto", interpolation="nearest"
    )
    axes.set_xticks(np.arange(table.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(table.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return shades


def _hatch(axes, marked: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for y, x in zip(*np.nonzero(marked), strict=True):
        box = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="///", edgecolor="white", linewidth=0)
        axes.add_patch(box)


def _scale(sheet, shades, x: float, y: float, width: float, height: float) -> None:
    axes = sheet.add_axes((x, y, width, height))
    bar = sheet.colorbar(shades, cax=axes)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9.5, labelfontfamily="DejaVu Sans", colors=QUIET, length=3)


def _numbers(axes, table: np.ndarray, shades, room: float) -> None:
    """Write the values into the cells when there are few enough and each is wide enough (pixels)."""
    if table.size > WRITTEN_CELLS or room < 27:
        return
    for (y, x), value in np.ndenumerate(table):
        if not np.isnan(value):
            ink = INK if shades.norm(value) > 0.5 else "white"
            number = f"{value:.2f}".lstrip("0") if value < 0.995 else f"{value:.1f}"
            axes.text(x, y, number, **text_style(9, ha="center", va="center", color=ink))


def _title(report: Report) -> str:
    pair = f"{printable(report.source, 34)} → {printable(report.target, 34)}" if report.source else ""
    lead = printable(report.adapter, 30) if report.job == "transfer" and report.adapter else ""
    return ": ".join(part for part in (lead, pair) if part)


def _message(text: str, width: int) -> np.ndarray:
    sheet = figure(width, DPI)
    sheet.text(0.5, 0.5, text, **text_style(14, ha="center", va="center"))
    return pixels(sheet)
