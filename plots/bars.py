"""How much of the update each block kept."""

from __future__ import annotations

import numpy as np

from ..jobs.report import Report
from ..jobs.report import kept_energy as total_kept
from .canvas import COLOURS, INK, QUIET, figure, pixels, printable, text_style
from .grid import rows

TALLEST = 2048  # pixels


def kept_energy(report: Report, width: int = 1024) -> np.ndarray:
    """One bar per block: ‖ΔW_t‖² / ‖ΔW_s‖² over its modules; dropped modules count as nothing.

    A line marks 1, where the update arrives at full size. Returns (height, width, 3) uint8.
    """
    groups = rows(report)
    shares = {name: total_kept(modules) for name, modules in groups.items()}
    shares = {name: share for name, share in shares.items() if share is not None}
    if not shares:
        sheet = figure(width, 100)
        sheet.text(0.5, 0.5, "No module was measured.", **text_style(14, ha="center", va="center"))
        return pixels(sheet)
    return _draw(report, shares, {name: len(groups[name]) for name in shares}, width)


def _draw(report: Report, shares: dict[str, float], counts: dict[str, int], width: int) -> np.ndarray:
    from matplotlib import colormaps

    names = [printable(name, 28) for name in shares]
    values = np.array(list(shares.values()))
    row = min(max(640 // len(names), 18), 40)
    left, head, foot = 24 + int(8.2 * max(map(len, names))), 48, 52
    height = min(head + foot + row * len(names), TALLEST)
    sheet = figure(width, height)
    axes = sheet.add_axes((left / width, foot / height, (width - left - 24) / width, (height - head - foot) / height))
    top = max(1.0, float(values.max()))
    axes.barh(range(len(names)), values, height=0.72, color=colormaps[COLOURS](0.15 + 0.75 * values / top))
    axes.axvline(1.0, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    room = (height - head - foot) / len(names)
    if room >= 14:
        for place, (name, value) in enumerate(shares.items()):
            modules = f"{counts[name]} module{'s' if counts[name] != 1 else ''}"
            axes.text(value + 0.01 * top, place, f"{value:.2f}  ({modules})", **text_style(9.5, va="center"))
    step = max(1, int(np.ceil(13 / room)))
    axes.set_yticks(range(0, len(names), step), names[::step], **text_style(10))
    axes.set_xlim(0, top * 1.22)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=10, labelfontfamily="DejaVu Sans", colors=QUIET)
    axes.set_xlabel("kept energy (1 = the update at full size)", **text_style(10.5))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    title = (
        f"What {printable(report.adapter, 40) or 'the adapter'} keeps in {printable(report.target, 40) or 'the target'}"
    )
    sheet.text(0.5, 1 - 20 / height, title, **text_style(12.5, ha="center", va="center", color=INK))
    return pixels(sheet)
