"""A run's own folder: prompts, answers and the checkpoint of a distillation that may be broken off."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .. import adapters, choices
from ..adapters import Adapter
from ..errors import AdapterError
from ..jobs.distill.checkpoint import FileKeeper
from .journal import Journal

_BEST = "best_so_far"
_OWN = re.compile(r"(prompts|answers|own)_[0-9a-f]{24}\.jsonl|[0-9a-f]{24}\.safetensors")


@dataclass
class TextRun:
    """Without a folder nothing is kept.

    every: steps between two checkpoints; 0 for none but the one at a break. best: the adapter's folder, of a run that
    was broken off. step: where that was.
    """

    folder: Path | None = None
    every: int = choices.Pipelines.checkpoint_every
    best: Path | None = None
    step: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the folder holds something to go on from."""
        return self.folder is not None and self.folder.is_dir() and any(self.folder.iterdir())

    def journal(self, name: str, identity: str) -> Journal:
        """The prompts, the answers or the own texts of this run, as far as they are there."""
        return Journal(self.folder, name, identity)

    def keeper(self, identity: str) -> FileKeeper | None:
        return None if self.folder is None else FileKeeper(self.folder, identity, self.every)

    def salvage(self, adapter: Adapter, step: int) -> None:
        """Keep the best so far of a run that ends early."""
        self.step = step
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.best = adapters.write(adapter, self.folder / _BEST, overwrite=True)
        except (AdapterError, OSError) as problem:  # what ended the run is what the user must read
            self.notes.append(f"The best so far could not be kept: {problem}")

    def finished(self) -> None:
        """The results are written: the folder is not needed any more."""
        if self.folder is None:
            return
        with suppress(OSError):
            shutil.rmtree(self.folder / _BEST, ignore_errors=True)
            for path in self.folder.iterdir():
                if _OWN.fullmatch(path.name):
                    path.unlink()
            self.folder.rmdir()
