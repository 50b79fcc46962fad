"""What the page needs of the program that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Host(Protocol):
    """Where files are and where work is done. :mod:`.alone` and :mod:`.a1111` are the two there are.

    lora_folder: where results go. device: "cpu" or "cuda", for "auto". language: "en" or "zh".
    origins: addresses of other pages that may start jobs, none by default.
    sends: whether the host has a prompt that a result can be sent to.
    """

    @property
    def lora_folder(self) -> Path: ...

    @property
    def device(self) -> str: ...

    @property
    def language(self) -> str: ...

    @property
    def origins(self) -> tuple[str, ...]: ...

    @property
    def sends(self) -> bool: ...

    def bases(self) -> Mapping[str, Path]:
        """Name → checkpoint or model folder."""
        ...

    def loras(self) -> Mapping[str, Path]:
        """Name → adapter file."""
        ...

    def working(self, title: str) -> AbstractContextManager[Working]:
        """Entered for as long as a job works; waits for the host's own work."""
        ...

    def refreshed(self) -> None:
        """There is a new LoRA: the host's own lists are to show it."""
        ...


class Working(Protocol):
    """The host while a job of ours is at work."""

    def tell(self, done: int, total: int) -> None:
        """How far the job is, for the host's own progress."""
        ...

    def interrupted(self) -> bool:
        """Whether the host was asked to stop what it does."""
        ...
