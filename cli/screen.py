"""Reports and inspections on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..untrusted import visible

if TYPE_CHECKING:
    from ..jobs.distill.report import DistillReport
    from ..jobs.inspect import Inspection
    from ..jobs.merge.report import MergeReport
    from ..jobs.transfer.report import Report
    from ..language.report import TextReport

MOST_WIDTH = 32  # that the names of blocks may take from the figures beside them


class Visible(Console):
    """A console on which nothing from a file moves the cursor, turns the writing or changes the window's title."""

    def render_str(self, text: str, **style) -> Text:
        return super().render_str(visible(text), **style)


def console() -> Console:
    """Standard output; file names and keys are printed as they are (no markup, no colouring of numbers)."""
    return Visible(markup=False, highlight=False, soft_wrap=True)


def show(
    report: Report | MergeReport | DistillReport | TextReport, written: list[Path], *, as_json: bool = False
) -> None:
    """A job's report, and the files written; as JSON the report alone."""
    if as_json:
        print(visible(report.to_json()))
    elif report.job == "distill":
        show_distill(report, written)
    elif report.job == "distill text":
        show_text(report, written)
    elif report.job in ("merge", "resize"):
        show_merge(report, written)
    else:
        show_report(report, written)


def show_report(report: Report, written: list[Path]) -> None:
    """Sentences, a table by block, the files written."""
    out = console()
    out.print(report.summary())
    for note in report.notes:
        out.print(f"- {note}")
    if report.modules:
        out.print(_blocks(report))
    if report.advice != "none":
        out.print(Text(visible(f"Advice: {report.advice}"), style="bold"))
    for path in written:
        out.print(f"Wrote {path}")


def _blocks(report: Report) -> Table:
    from ..jobs.transfer.report import kept_energy
    from ..plots.grid import rows, similarity

    table = Table("block", box=None, pad_edge=False, header_style="bold")
    moved = report.job == "transfer"
    for column in ("modules", "similarity", *(("kept energy",) if moved else ())):
        table.add_column(column, justify="right")
    for block, modules in rows(report).items():
        cells = [block, str(len(modules)), figure(similarity(modules))]
        table.add_row(*cells, *([figure(kept_energy(modules))] if moved else []))
    return table


def show_merge(report: MergeReport, written: list[Path]) -> None:
    """Sentences, a table by block, the files written."""
    from ..jobs.merge.tables import BLOCK_COLUMNS, block_row
    from ..plots.grid import rows

    out = console()
    out.print(report.summary())
    for note in report.notes:
        out.print(f"- {note}")
    blocks = rows(report)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(BLOCK_COLUMNS[0], min_width=min(MOST_WIDTH, max(map(len, blocks), default=0)))
    for column in BLOCK_COLUMNS[1:-1]:
        table.add_column(column, justify="right")
    for block, modules in blocks.items():
        table.add_row(*block_row(block, modules)[:-1])
    out.print(table)
    for path in written:
        out.print(f"Wrote {path}")


def show_distill(report: DistillReport, written: list[Path]) -> None:
    """Sentences, the checks, the files written."""
    out = console()
    out.print(report.summary())
    for found in filter(None, (report.arrived(), report.side_effects())):
        out.print(Text(visible(found.replace("**", ""))))
    for note in report.notes:
        out.print(f"- {note}")
    table = Table("step", box=None, pad_edge=False, header_style="bold")
    table.add_column("share of the effect" if report.measured else "share of the error removed", justify="right")
    for step, share in report.checks:
        table.add_row(str(step), figure(share))
    out.print(table)
    out.print(Text(visible(f"Advice: {report.advice()}"), style="bold"))
    for path in written:
        out.print(f"Wrote {path}")


def show_text(report: TextReport, written: list[Path]) -> None:
    """Sentences, the loss on held-out answers, the files written."""
    out = console()
    out.print(report.summary())
    if aside := report.side_effects():
        out.print(Text(visible(aside)))
    out.print(report.prompts)
    for note in report.notes:
        out.print(f"- {note}")
    table = Table("step", box=None, pad_edge=False, header_style="bold")
    table.add_column("loss on held-out answers", justify="right")
    for step, share in report.checks:
        table.add_row(str(step), figure((1 - share) * report.reference))
    out.print(table)
    out.print(Text(visible(f"Advice: {report.advice()}"), style="bold"))
    for path in written:
        out.print(f"Wrote {path}")


def show_inspection(inspection: Inspection) -> None:
    """The plain text, its first line in bold."""
    out = console()
    first, *rest = inspection.to_text().splitlines()
    out.print(Text(visible(first), style="bold"))
    for line in rest:
        out.print(line)


def figure(value: float | None) -> str:
    """A figure with three digits, a dash where there is none."""
    return "–" if value is None else f"{round(value, 3) + 0.0:.3f}"


def show_demo(made: dict) -> None:
    """Figures first, then the files."""
    out = console()
    for name, value in made.items():
        label = str(name).replace("_", " ")
        if isinstance(value, Path):
            out.print(f"Wrote {value} ({label})")
        else:
            out.print(f"{label}: {figure(value) if isinstance(value, float) else value}")


def show_batch(summary, folder: Path, *, dry: bool, leave: bool) -> None:
    """The combinations of a dry run; else what is done, and each failure under the node's own words."""
    out = console()
    if dry:
        for job in summary.jobs:
            out.print(", ".join(f"{name}={value}" for name, value in job.values.items()) or job.label)
        out.print(f"{len(summary.jobs)} prompts")
        return
    before = f" ({summary.before} before)" if summary.before else ""
    out.print(f"{summary.done} of {len(summary.jobs)} done{before}, {len(summary.failed)} failed.")
    reasons: dict[str, list[str]] = {}
    for job, outcome in summary.failed:
        reasons.setdefault(outcome.error, []).append(job.label)
    for reason, labels in reasons.items():
        out.print(f"Failed: {reason}")
        for label in labels:
            out.print(f"  {label}")
    if summary.stopped:
        out.print(f"Stopped: {summary.stopped}. The same command goes on from here.")
    out.print(f"Where the results are: {folder / 'manifest.jsonl'}" if leave else f"Results: {folder}")
