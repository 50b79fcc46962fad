"""The batch on the screen: how far all of it is, the time left, and what each server does."""

from __future__ import annotations

import sys

from ..untrusted import one_line, visible


class Watch:
    """A bar for the batch and a line per server on stderr; on anything but a terminal only notices are printed."""

    def __init__(self, total: int, done: int, servers: list[str]):
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[label]}", markup=False, style="dim"),
                console=Console(stderr=True),
                transient=True,
                speed_estimate_period=3600,
            )
            self._all = self._bar.add_task("All", total=total, completed=done, label="")
            self._lines = {name: self._bar.add_task(name, total=None, label="connecting") for name in servers}

    def __enter__(self) -> Watch:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()

    def ended(self, failed: int) -> None:
        """One more job has ended."""
        if self._bar:
            self._bar.update(self._all, advance=1, label=f"{failed} failed" if failed else "")

    def server(self, name: str, label: str) -> None:
        """What a server is at."""
        if self._bar:
            self._bar.update(self._lines[name], label=one_line(label[:60]))

    def step(self, name: str, value: float | None, highest: float | None) -> None:
        """How far its node is; None when it began another."""
        if self._bar:
            self._bar.update(self._lines[name], completed=value or 0, total=highest)

    def say(self, text: str) -> None:
        """A notice that stays."""
        text = visible(text)
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
