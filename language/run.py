"""A run's own folder: prompts, answers and the checkpoint of a distillation that may be broken off."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .. import choices


@dataclass
class TextRun:
    """Without a folder nothing is kept.

    every: steps between two checkpoints; 0 for none but the one at a break. best: the adapter's folder of a run that
    was broken off. step: where that was.
    """

    folder: Path | None = None
    every: int = choices.Pipelines.checkpoint_every
    best: Path | None = None
    step: int = 0
    notes: list[str] = field(default_factory=list)
