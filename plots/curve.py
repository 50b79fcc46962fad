"""How learning went: the loss, and the share of the effect reproduced on held-out noisy latents."""

from __future__ import annotations

import numpy as np

from ..jobs.distill.report import DistillReport
from .canvas import INK, QUIET, figure, pixels, text_style

LOSS, SHARE = "#8a8a8a", "#0072b2"  # grey and blue: apart for every kind of colour sight


def loss_curve(report: DistillReport, width: int = 768, height: int = 420) -> np.ndarray:
    """Loss by step (grey, logarithmic, left) and share of the effect (blue, right), (height, width, 3) uint8."""
    sheet = figure(width, height)
    axes = sheet.add_axes((0.13, 0.14, 0.76, 0.7))
    steps = range(1, len(report.losses) + 1)
    axes.plot(steps, report.losses, color=LOSS, linewidth=1.2)
    if report.losses and min(report.losses) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("step", **text_style(11))
    axes.set_ylabel("loss", **text_style(11))
    other = axes.twinx()
    checks = [(step, share) for step, share in report.checks if np.isfinite(share)]
    other.plot(
        [step for step, _ in checks],
        [share for _, share in checks],
        color=SHARE,
        linewidth=2.4,
        marker="o",
        markersize=5,
    )
    lowest = min([0.0, *(share for _, share in checks)])
    other.set_ylim(max(lowest, -1.0), 1.05)
    name = "share of the effect" if report.measured else "share of the error removed"
    other.set_ylabel(name, **text_style(11))
    other.axvline(report.best, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    for side in (axes, other):
        side.tick_params(labelsize=10, labelfontfamily="DejaVu Sans", colors=INK)
        side.spines["top"].set_visible(False)
    sheet.text(
        0.13, 0.92, f"{name}: {report.explained:.0%} at step {report.best} (blue); loss (grey)", **text_style(12)
    )
    return pixels(sheet)
