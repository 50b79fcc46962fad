"""A merge by block: whose clusters stayed pure and how many mix several LoRAs; without clusters, the cosine."""

from __future__ import annotations

from statistics import fmean

import numpy as np

from ..jobs.merge.lines import MergedModule
from ..jobs.merge.report import MergeReport
from .canvas import COLOURS, INK, QUIET, figure, pixels, printable, text_style
from .grid import rows

TALLEST = 2048  # pixels
MIXED = "#1a1a1a"  # darker than every LoRA's colour


def clusters(report: MergeReport, width: int = 1024) -> np.ndarray:
    """One bar per block. LEGO: its clusters, by the LoRA whose units they hold, the mixed ones at the end.

    Other methods have no clusters: their bars are the mean cosine with the exact sum.

    Returns:
        (height, width, 3) uint8; the height follows the number of blocks.
    """
    groups = rows(report)
    if any(m.clusters for m in report.modules):
        counts = {name: _counts(modules, len(report.loras)) for name, modules in groups.items()}
        return _stacked(report, {name: row for name, row in counts.items() if row.sum()}, width)
    cosines = {n: [m.cosine for m in ms if m.cosine is not None] for n, ms in groups.items()}
    cosines = {name: fmean(values) for name, values in cosines.items() if values}
    if not cosines:
        sheet = figure(width, 100)
        sheet.text(0.5, 0.5, "No module was measured.", **text_style(14, ha="center", va="center"))
        return pixels(sheet)
    return _cosines(report, cosines, width)


def _counts(modules: list[MergedModule], loras: int) -> np.ndarray:
    """Pure clusters of each LoRA, then mixed ones: (loras + 1,)."""
    found = [m for m in modules if m.clusters]
    pure = np.sum([m.pure or [0] * loras for m in found], axis=0) if found else np.zeros(loras)
    return np.append(pure, sum(m.mixed or 0 for m in found))


def _stacked(report: MergeReport, counts: dict[str, np.ndarray], width: int) -> np.ndarray:
    from matplotlib import colormaps

    table = np.stack(list(counts.values()))
    last = table.shape[1] - 1
    used = [i for i, lora in enumerate(report.loras) if not lora.left_out] + [last]
    shades = [*colormaps[COLOURS](np.linspace(0.3, 0.95, max(last, 1))), MIXED]
    labels = [*(printable(lora.name, 40) for lora in report.loras), "several LoRAs mixed"]
    sheet, axes, names = _sheet(list(counts), width, "clusters", head=56 + 20 * len(used))
    starts = np.zeros(len(names))
    for column in used:
        axes.barh(
            range(len(names)), table[:, column], left=starts, height=0.74, color=shades[column], label=labels[column]
        )
        starts += table[:, column]
    for line, row in enumerate(table):
        note = f"{row[last]:.0f} of {row.sum():.0f} mixed"
        axes.text(row.sum() + 0.01 * starts.max(), line, note, **text_style(9, va="center"))
    axes.set_xlim(0, starts.max() * 1.2)
    height = sheet.get_size_inches()[1] * sheet.dpi
    legend = sheet.legend(
        loc="upper left",
        bbox_to_anchor=(0.02, 1 - 34 / height),
        frameon=False,
        prop={"family": "DejaVu Sans", "size": 9.5},
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    mixed = table[:, last].sum() / table.sum()
    return _titled(sheet, f"Clusters by block: {mixed:.0%} mix several LoRAs")


def _cosines(report: MergeReport, values: dict[str, float], width: int) -> np.ndarray:
    from matplotlib import colormaps

    sheet, axes, names = _sheet(list(values), width, "cosine with the exact sum (1 = the same direction)", head=48)
    shown = np.array(list(values.values()))
    axes.barh(range(len(names)), shown, height=0.74, color=colormaps[COLOURS](0.15 + 0.75 * shown.clip(0, 1)))
    axes.axvline(1.0, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    for line, value in enumerate(shown):
        axes.text(max(value, 0) + 0.01, line, f"{value:.3f}", **text_style(9, va="center"))
    axes.set_xlim(min(0.0, float(shown.min())), 1.15)
    return _titled(sheet, f"{printable(report.display or report.method, 40)} against the exact sum, by block")


def _sheet(blocks: list[str], width: int, label: str, head: int):
    """(figure, axes, printable names) for horizontal bars with room for a title and legend of ``head`` pixels."""
    names = [printable(name, 28) for name in blocks]
    row = min(max(640 // len(names), 18), 40)
    left, foot = 24 + int(8.2 * max(map(len, names))), 52
    height = min(head + foot + row * len(names), TALLEST)
    sheet = figure(width, height)
    axes = sheet.add_axes((left / width, foot / height, (width - left - 24) / width, (height - head - foot) / height))
    room = (height - head - foot) / len(names)
    step = max(1, int(np.ceil(13 / room)))
    axes.set_yticks(range(0, len(names), step), names[::step], **text_style(10))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=10, labelfontfamily="DejaVu Sans", colors=QUIET)
    axes.set_xlabel(label, **text_style(10.5))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    return sheet, axes, names


def _titled(sheet, title: str) -> np.ndarray:
    height = sheet.get_size_inches()[1] * sheet.dpi
    sheet.text(0.5, 1 - 20 / height, title, **text_style(12.5, ha="center", va="center", color=INK))
    return pixels(sheet)
