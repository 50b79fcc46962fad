"""Trans-LoRA on text, from folders to an adapter: prompts, answers, learning; resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..adapters import Adapter
from ..jobs.progress import Progress
from .run import TextRun
from .settings import TextData, TextDistillation


@dataclass
class Taught:
    """adapter: of the target, in PEFT's form; report; figures: those of the report; provenance: for the metadata."""

    adapter: Adapter
    report: object
    figures: dict[str, object]
    provenance: dict[str, object]


def teach(
    adapter: Path | Adapter | None,
    source: Path | None,
    target: Path,
    data: TextData,
    settings: TextDistillation | None = None,
    *,
    run: TextRun | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Taught:
    """Teach `target` what an adapter does on `source`."""
    raise NotImplementedError
