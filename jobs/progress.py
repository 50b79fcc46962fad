"""How a job tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with what is done of how much, and what is at hand; whatever it raises ends the job (a cancel, say)."""

    def __call__(self, done: int, total: int, label: str, /) -> None: ...


def silent(done: int, total: int, label: str, /) -> None:
    """The progress of a job that nobody watches."""
