"""``lora-graft transfer --all``: many LoRAs for another base; this is the screen, the job is ``jobs.transfer.many``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from ..untrusted import visible
from .guard import FAILED, INTERRUPTED
from .progress import progress
from .screen import console, figure

if TYPE_CHECKING:
    from ..jobs.processes import Engine
    from ..jobs.transfer.many import Outcome, PhaseProgress


def transfer_shelf(
    patterns: list[str], folder: Path, *, engine: AbstractContextManager[Engine], keep_cache: bool, **job: Any
) -> None:
    """Transfer every file that matches into a folder; the exit status tells whether all of them are there.

    Args:
        engine: opened for the work; one of several machines is given absolute names.
        job: fields of :class:`..jobs.transfer.many.Job`.
    """
    from ..jobs.transfer.many import Job, find_files, transfer_many

    files = find_files(patterns, folder)
    try:
        with engine as opened, bars() as phase:
            if opened.shared:
                files = {file.absolute(): output.absolute() for file, output in files.items()}
                job |= {name: job[name].absolute() for name in ("source", "target")}
            outcomes = transfer_many(files, Job(**job), keep_cache=keep_cache, progress=phase, engine=opened)
    except KeyboardInterrupt:
        print(f"Interrupted. What is in {folder} is whole; the same call goes on from here.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    show_outcomes(outcomes, folder)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)


@contextmanager
def bars() -> Iterator[PhaseProgress]:
    """A bar for each phase, one after the other; a phase that comes again, in a later stage, has a new one."""
    with ExitStack() as stack:
        shown: tuple[str, Any] = ("", None)

        def tell(phase: str, done: int, total: int, label: str, /) -> None:
            nonlocal shown
            if phase != shown[0]:
                stack.close()
                shown = phase, stack.enter_context(progress(phase))
            shown[1](done, total, label)

        yield tell


def show_outcomes(outcomes: list[Outcome], folder: Path) -> None:
    """A line per file with its figures, then what failed and why."""
    out = console()
    by_status: dict[str, list[Outcome]] = {"transferred": [], "present": [], "failed": []}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.file):
        by_status[outcome.status].append(outcome)
    done, present, failed = by_status.values()
    if done:
        table = Table("LoRA", "method", box=None, pad_edge=False, header_style="bold")
        table.add_column("similarity", justify="right")
        table.add_column("kept energy", justify="right")
        table.add_column("empty blocks", justify="right")
        left_out = any(one.left_out for one in done)
        if left_out:
            table.add_column("left out", justify="right")
        table.add_column("advice")
        for one in done:
            figures = figure(one.similarity), figure(one.kept_energy), str(one.empty_blocks)
            figures += (str(one.left_out),) if left_out else ()
            table.add_row(Text(visible(one.file.name)), one.method, *figures, one.advice)
        out.print(table)
    before = f", {len(present)} were there already" if present else ""
    out.print(f"{len(done)} transferred{before}, {len(failed)} failed.")
    for one in failed:
        out.print(f"Failed: {one.file}: {one.error}")
    out.print(f"Results: {folder}")
