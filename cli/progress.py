"""Progress on stderr with the time left; silent when stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..jobs.progress import Progress, silent


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Yields the callback (done, total, label) that jobs report to."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[label]}", markup=False, style="dim"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task(what, total=None, label="")

        def tell(done: int, total: int, label: str, /) -> None:
            bar.update(task, completed=done, total=total, label=label[-48:])

        yield tell
