"""What a recipe will take, from its first items: they are really done, aside, and what they took is multiplied."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import GraftError, in_words
from ..jobs.merge import order as merging
from ..jobs.progress import Progress, silent
from ..jobs.transfer.many import Worker
from .recipe import Recipe
from .run import missing

SAMPLES = 2  # of each stage: the first measures the bases' weights, the second shows what the others cost
TRIED = 4  # at most, where some fail


@dataclass(frozen=True)
class Estimate:
    """Of one stage, or of all merges.

    outputs, to_do: in all, and not there yet. measured: items that were really done, for this.
    first, other: seconds of processor time of the first item and of each other one; the first measures the weights of
        the two bases, unless the cache has them.
    read, written: bytes of all that is to do; of `read` the LoRAs' files are known, and so is the size of bases, of
        which only the changed weights are read.
    """

    title: str
    outputs: int
    to_do: int
    measured: int = 0
    first: float = 0.0
    other: float = 0.0
    read: int = 0
    written: float = 0.0
    error: str = ""

    @property
    def seconds(self) -> float:
        """Processor time of all that is to do."""
        return self.first + self.other * max(0, self.to_do - 1) if self.measured else 0.0


def estimate(recipe: Recipe, progress: Progress = silent) -> list[Estimate]:
    """Measure the first items of each stage and of the merges. Nothing stays but what the cache learns of the bases.

    Distillations are counted and not tried: one takes minutes. Merges of files that the recipe has still to make
    cannot be tried; they count like those that can.

    Raises:
        SettingsError: as :func:`.run.missing`.
    """
    waiting = set(missing(recipe))
    count, found = len(recipe.stages) + bool(recipe.merges), []
    for number, stage in enumerate(recipe.stages):
        progress(number, count, stage.title)
        work = {file: output for file, output in stage.files.items() if output in waiting}
        with tempfile.TemporaryDirectory(prefix="lora-graft-") as folder:
            begun = time.process_time()
            worker = Worker(replace(stage.job, report=None))
            made = _measured(worker.transfer, list(work), Path(folder), begun)
        bases = {base: _size(base) for base in (stage.job.source, stage.job.target)}
        read = sum(map(_size, work)) + (sum(bases.values()) if work else 0)
        found.append(_estimate(stage.title, len(stage.files), len(work), read, made))
    if recipe.distillations:
        to_do = [order for order in recipe.distillations if order.output in waiting]
        read = sum(_size(order.lora) for order in to_do)
        read += sum(map(_size, {base for order in to_do for base in (order.source, order.target)}))
        found.append(_estimate("distillations", len(recipe.distillations), len(to_do), read, ([], "")))
    if recipe.merges:
        progress(count - 1, count, "merges")
        work_left = [order for order in recipe.merges if order.output in waiting]
        ready = [order for order in work_left if all(file.is_file() for file, *_ in order.loras)]
        with tempfile.TemporaryDirectory(prefix="lora-graft-") as folder:
            made = _measured(_merged, ready, Path(folder), time.process_time())
        read = sum(_size(file) for order in work_left for file, *_ in order.loras)
        found.append(_estimate("merges", len(recipe.merges), len(work_left), read, made))
    progress(count, count, "")
    return found


def _merged(order: merging.Order, output: Path) -> None:
    merging.carry_out(replace(order, output=output, report=None))


def _measured(work: Callable, items: list, folder: Path, begun: float) -> tuple[list[tuple[float, int]], str]:
    """(processor seconds, bytes written) of the first items that succeed, and why the last that failed did.

    Args:
        begun: processor time when the work began.
    """
    made, why = [], ""
    for number, item in enumerate(items[:TRIED]):
        output = folder / f"{number}.safetensors"
        try:
            work(item, output)
            made.append((time.process_time() - begun, output.stat().st_size))
        except (GraftError, OSError, MemoryError) as error:
            why = in_words(error).splitlines()[0]
        begun = time.process_time()
        if len(made) == SAMPLES:
            break
    return made, why


def _estimate(title: str, outputs: int, to_do: int, read: int, found: tuple[list[tuple[float, int]], str]) -> Estimate:
    made, why = found
    if not made:
        return Estimate(title, outputs, to_do, read=read, error=why)
    written = to_do * sum(size for _, size in made) / len(made)
    return Estimate(title, outputs, to_do, len(made), made[0][0], made[-1][0], read, written, why)


def _size(path: Path) -> int:
    """Bytes of a file, or of all weights in a folder; 0 for what is not there yet."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    return path.stat().st_size if path.is_file() else 0
