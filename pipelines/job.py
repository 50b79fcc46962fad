"""From files to an adapter: prompts, pictures, learning; resumable, and the best is kept when it is broken off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from .. import adapters as files
from .. import choices
from ..adapters import Adapter
from ..errors import NO_MEMORY, AdapterError, GraftError, SettingsError, lacks_memory
from ..jobs.distill import dataset as datasets
from ..jobs.distill.checkpoint import FileKeeper, identity
from ..jobs.distill.dataset import Dataset
from ..jobs.distill.denoiser import Drawing
from ..jobs.distill.distill import Distillation, Distilled, distill
from ..jobs.distill.effort import samples
from ..jobs.distill.generate import Generation, generate
from ..jobs.distill.prompts import PromptSettings, synthesize
from ..jobs.progress import Progress
from .models import Given, Models

LARGE = 200_000_000  # numbers in a network from which its blocks are computed twice to save memory
_OWN = re.compile(r"(dataset_|)[0-9a-f]{24}\.safetensors|best_so_far\.safetensors")  # in the folder of a run


@dataclass(frozen=True)
class Data:
    """What to draw.

    prompts: to draw from, used in turn. seeds: seed prompts, from which and from the LoRA's training tags prompts are
    made where there are none. count: of pictures; None for the effort's. guard_share: as in PromptSettings. drawing:
    None for what the models are made for.
    """

    prompts: Sequence[str] = ()
    seeds: Sequence[str] = ()
    count: int | None = choices.Dataset.count
    seed: int = choices.Dataset.seed
    drawing: Drawing | None = None
    least_action: float = choices.Dataset.least_action
    guard_share: float | None = choices.Prompts.guard_share
    effort: str = choices.Effort.effort

    def lines(self, adapters: Sequence[Adapter]) -> list[str]:
        """The prompts.

        Raises:
            SettingsError: there is nothing to make them from.
        """
        if found := [line.strip() for line in self.prompts if line.strip()]:
            return found
        try:
            how = PromptSettings(
                self.seeds, adapters[0], count=choices.Prompts.count, seed=self.seed, guard_share=self.guard_share
            )
            made = synthesize(how)
        except SettingsError as error:
            raise error.at(
                hint="Give prompts (--prompts), or a few seed prompts (--seeds), one a line, of the LoRA's kind."
            ) from None
        return made.lines

    def generation(self, models: Models) -> Generation:
        count = samples(self.effort, self.count)
        return Generation(count, self.seed, self.drawing or models.drawing, self.least_action)


def draw(models: Models, loras: Given, data: Data, progress: Progress | None = None) -> Dataset:
    """The dataset of a distillation.

    Raises:
        SettingsError: no prompts, NaN in the pictures, a size that does not go, or too little memory.
    """
    lines, settings = data.lines([adapter for adapter, _, _ in loras]), data.generation(models)
    for side in (settings.drawing.width, settings.drawing.height):
        if side < 16 or side % 16:
            raise SettingsError(f"Pictures of {side} pixels a side cannot be drawn", hint="Give a multiple of 16.")
    with memory_told():
        return generate(models.drawer, models.target, lines, settings, progress=progress)


@dataclass
class Run:
    """A run's own folder: the drawn dataset, the checkpoint, and the best of a run that was broken off.

    Without a folder nothing is kept. best: the file with the best so far. done: what to do when all is written.
    """

    folder: Path | None = None
    every: int = choices.Pipelines.checkpoint_every
    best: Path | None = None
    step: int = 0
    notes: list[str] = field(default_factory=list)

    def dataset(self, key: str, make: Callable[[], Dataset]) -> Dataset:
        """The dataset of an earlier run of the same settings, or a new one, kept for the next."""
        if self.folder is None:
            return make()
        path = self.folder / f"dataset_{key[:24]}.safetensors"
        try:
            return datasets.load(path)
        except AdapterError:
            made = make()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            datasets.save(made, path, overwrite=True)
        except (AdapterError, OSError) as problem:
            self.notes.append(f"The dataset could not be kept: {problem}")
        return made

    def keeper(self, key: str) -> FileKeeper | None:
        return None if self.folder is None else FileKeeper(self.folder, key, self.every)

    def salvage(self, adapter: Adapter, step: int) -> None:
        """Keep the best so far of a run that ends early."""
        self.step = step
        if self.folder is None:
            return
        path = self.folder / "best_so_far.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.best = files.write(adapter, path, overwrite=True)
        except (AdapterError, OSError) as problem:  # what ended the run is what the user must read
            self.notes.append(f"The best so far could not be kept: {problem}")

    def finished(self) -> None:
        """The results are written: the folder is not needed any more."""
        if self.folder is None:
            return
        with suppress(OSError):
            for path in self.folder.iterdir():
                if _OWN.fullmatch(path.name):
                    path.unlink()
            self.folder.rmdir()


def teach(
    models: Models,
    loras: Given,
    settings: Distillation,
    *,
    dataset: Dataset | Data,
    start_from: str | Adapter = choices.Pipelines.start_from,
    checkpointing: str = choices.Pipelines.checkpointing,
    run: Run | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Distilled:
    """Distil the LoRAs of the source into one of the target; see :func:`..jobs.distill.distill.distill`.

    Args:
        dataset: drawn already, or what to draw.
        start_from: "none", "copy" (the LoRA on the target's weights of the same name), "auto" (the copy of
            one LoRA for a student of its kind where the bases are no strangers), or an adapter of the target.
        checkpointing: "on", "off", or "auto": for large networks.
        run: where a broken run goes on.

    Raises:
        SettingsError: settings that do not fit the models, or too little memory.
        AdapterError: `start_from` does not fit.
    """
    if models.target is None:
        raise SettingsError("No target was given, so nobody can learn")
    run, given = run or Run(), [adapter for adapter, _, _ in loras]
    if checkpointing == "auto":
        shapes = models.target.base.weights().values()
        checkpointing = "on" if sum(torch.Size(shape).numel() for shape in shapes) > LARGE else "off"
    settings = replace(settings, training=replace(settings.training, checkpointing=checkpointing == "on"))
    marks = [*models.marks, *([a.digest, m, c] for a, m, c in loras)]
    if isinstance(dataset, Data):
        data = dataset
        drawn = asdict(replace(data, prompts=data.lines(given), drawing=data.drawing or models.drawing))
        dataset = run.dataset(identity("dataset", drawn, *marks), lambda: draw(models, loras, data, progress))
    alone = len(loras) == 1 and settings.kind == "lora"
    if start_from == "auto" and not alone:
        start_from = "none"
    warm_start = _warm_start(start_from, loras, models)
    who = [
        *marks,
        dataset.digest,
        warm_start and warm_start.digest,
        start_from if start_from in choices.Pipelines.starts else "file",
    ]
    keeper = run.keeper(identity(settings.stored(), *who))
    with memory_told():
        result = distill(
            dataset,
            models.teacher,
            models.target,
            given,
            settings,
            warm_start=warm_start,
            translate=models.translate,
            keeper=keeper,
            progress=progress,
            salvage=run.salvage,
            device=device,
        )
    if keeper is not None and keeper.trouble:
        run.notes.append(keeper.trouble)
    result.report.notes += run.notes
    return result


def _warm_start(asked: str | Adapter, loras: Given, models: Models) -> Adapter | None:
    if isinstance(asked, Adapter):
        return asked
    if asked not in choices.Pipelines.starts:
        raise SettingsError(
            f"unknown start {asked!r}", hint=f"Choose {' or '.join(choices.Pipelines.starts)}, or give an adapter."
        )
    if asked == "none" or models.target is None:
        return None
    if len(loras) > 1:
        raise SettingsError(
            "A copy of several LoRAs is no one adapter to start from",
            hint="Merge them for the target (transfer, then merge) and give that file to start from.",
        )
    from ..jobs.transfer.transfer import TransferSettings, transfer

    adapter, strength, _ = loras[0]
    settings = TransferSettings(method="copy", strength=strength)
    try:
        copied = transfer(adapter, models.base.base, models.target.base, settings)
    except GraftError:
        if asked == "auto":  # no weight in common: nothing to start from
            return None
        raise
    return None if asked == "auto" and copied.report.advice == "distil" else copied.adapter


@contextmanager
def memory_told() -> Iterator[None]:
    """Too little memory is told as an error that names the ways out."""
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if not lacks_memory(problem):
            raise
        raise SettingsError(
            NO_MEMORY,
            hint="Take smaller batches (--batch, and --accumulation as many times larger), --checkpointing on, "
            "--precision bf16, --offload on, or smaller pictures (--width, --height).",
        ) from problem


def layout_of(asked: str, adapters: Sequence[Adapter]) -> str:
    """The layout to write: the first LoRA's own, else kohya's."""
    if asked != "same":
        return asked
    return adapters[0].layout if adapters and adapters[0].layout in choices.File.layouts else "kohya"
