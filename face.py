"""LoRA Graft from Python: the jobs, with file names wherever a user has files. ``import lora_graft`` offers all of it.

Every job returns what it made and a report; nothing is written but by :func:`write` and :func:`transfer_many`. An
adapter is the name of a file or of a PEFT folder, or an :class:`~.adapters.Adapter`; a base is the name of a checkpoint
or of a diffusers or transformers folder, or an opened :class:`~.bases.Base`. Settings are keyword arguments, named as
in the job's settings. Errors are :class:`~.errors.GraftError`, with the file.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeAlias

from . import choices
from .adapters import Adapter, read, write
from .bases import Base, open_base
from .errors import SettingsError
from .jobs.convert import convert as _convert
from .jobs.distill.dataset import Dataset
from .jobs.distill.dataset import load as _load_dataset
from .jobs.distill.denoiser import Drawing
from .jobs.distill.distill import Distillation, Distilled
from .jobs.distill.distill import distill as _distill
from .jobs.distill.effort import planned
from .jobs.distill.prompts import Prompts, PromptSettings, synthesize
from .jobs.distill.schedule import Training
from .jobs.distill.writer import Write
from .jobs.inspect import Inspection, inspect_adapter
from .jobs.inspect import inspect as _inspect
from .jobs.merge.merge import MergeResult, MergeSettings
from .jobs.merge.merge import merge as _merge
from .jobs.merge.resize import ResizeSettings
from .jobs.merge.resize import resize as _resize
from .jobs.progress import Progress, silent
from .jobs.transfer.compare import compare
from .jobs.transfer.many import Job, Outcome, PhaseProgress, find_files
from .jobs.transfer.many import transfer_many as _transfer_many
from .jobs.transfer.report import Report
from .jobs.transfer.transfer import TransferResult, TransferSettings
from .jobs.transfer.transfer import transfer as _transfer
from .kernels.spectral import SubspaceSize
from .pipelines.job import Data, Run, teach
from .pipelines.models import open_models

Path: TypeAlias = "str | os.PathLike[str]"
Lora: TypeAlias = "Path | Adapter"

__all__ = [
    "convert",
    "distill",
    "inspect",
    "merge",
    "open_base",
    "prompts",
    "read",
    "resize",
    "similarity",
    "transfer",
    "transfer_many",
    "write",
]


def inspect(lora: Lora) -> Inspection:
    """What an adapter is: format, likely base, modules, ranks, norms, trigger words; ``.to_text()`` prints it."""
    return inspect_adapter(lora) if isinstance(lora, Adapter) else _inspect(lora)


def similarity(
    source: Path | Base, target: Path | Base, *, lora: Lora | None = None, size: SubspaceSize | None = None, **how: Any
) -> Report:
    """How much of two bases' leading directions agree, weight by weight; with `lora`, of the weights it changes.

    how: ``progress``, ``cache``, ``device`` of :func:`.jobs.transfer.compare.compare`.
    """
    adapter = None if lora is None else _adapter(lora)
    return compare(_base(source), _base(target), size, adapter=adapter, **how)


def transfer(
    lora: Lora,
    source: Path | Base,
    target: Path | Base,
    *,
    progress: Progress | None = None,
    cache: Any = None,
    device: Any = None,
    **settings: Any,
) -> TransferResult:
    """An adapter of `source` rebuilt for `target`: ``.adapter``, ``.report`` and ``.provenance``.

    settings: fields of :class:`.jobs.transfer.transfer.TransferSettings`: ``method="copy"``, ``strength=0.8``,
        ``rank=16`` …
    cache: a :class:`.jobs.cache.SubspaceCache` for many adapters of one pair.
    """
    chosen = TransferSettings(**settings)
    return _transfer(
        _adapter(lora), _base(source), _base(target), chosen, progress=progress, cache=cache, device=device
    )


def transfer_many(
    loras: Path | Sequence[Path],
    source: Path,
    target: Path,
    folder: Path,
    *,
    processes: int | None = None,
    keep_cache: bool = True,
    progress: PhaseProgress | None = None,
    report: str | None = None,
    dtype: str | None = None,
    layout: str = "same",
    overwrite: bool = False,
    device: str = "cpu",
    **settings: Any,
) -> list[Outcome]:
    """Every LoRA of a shelf rebuilt for `target` and written into `folder`, in processes of their own.

    What cannot be done is told in its outcome, and the rest goes on; outputs that exist are left alone, so that the
    same call goes on after a stop. A script calls this under ``if __name__ == "__main__"``, for its processes read it.

    loras: files, or patterns with * and ** for subfolders.
    processes: at a time; None for one per core, at most 4, and one on a GPU.
    keep_cache, progress: see :func:`.jobs.transfer.many.transfer_many`.
    report: ".md" or ".json" for a report beside each file.
    dtype, layout: as :func:`write` takes them.
    settings: fields of :class:`.jobs.transfer.transfer.TransferSettings`.
    """
    patterns = [loras] if isinstance(loras, (str, os.PathLike)) else loras
    files = find_files([os.fspath(pattern) for pattern in patterns], pathlib.Path(folder))
    job = Job(
        pathlib.Path(source),
        pathlib.Path(target),
        TransferSettings(**settings),
        dtype=dtype,
        layout=layout,
        report=report,
        overwrite=overwrite,
        device=device,
    )
    return _transfer_many(files, job, processes=processes, keep_cache=keep_cache, progress=progress)


def merge(
    loras: Sequence[Lora | tuple[Lora, float] | tuple[Lora, float, float]],
    *,
    base: Path | Base | None = None,
    progress: Progress | None = None,
    device: Any = None,
    **settings: Any,
) -> MergeResult:
    """Several adapters as one, in the first one's layout.

    loras: each an adapter, (adapter, strength), or (adapter, strength on the model, strength on the text encoder).
    base: needed for DoRA and the like, and where files name the same weights in ways that only the base can match.
    settings: fields of :class:`.jobs.merge.merge.MergeSettings`: ``method="ties"``, ``rank=16``, ``density=0.3`` …
    """
    chosen, opened = MergeSettings(**settings), None if base is None else _base(base)
    return _merge([_weighted(entry) for entry in loras], chosen, base=opened, progress=progress, device=device)


def resize(
    lora: Lora, *, base: Path | Base | None = None, progress: Progress | None = None, **settings: Any
) -> MergeResult:
    """An adapter at the ranks that a rule chooses.

    settings: fields of :class:`.jobs.merge.resize.ResizeSettings`: ``rule="energy"``, ``amount=0.9``, ``most=32`` …
    """
    chosen, opened = ResizeSettings(**settings), None if base is None else _base(base)
    return _resize(_adapter(lora), chosen, base=opened, progress=progress)


def distill(
    lora: Lora | tuple[Lora, float] | list[Lora | tuple[Lora, float]] | Dataset,
    source: Any,
    target: Any,
    adapters: Sequence[Adapter] | None = None,
    settings: Distillation | None = None,
    *,
    prompts: Sequence[str] = (),
    seeds: Sequence[str] = (),
    dataset: Path | Dataset | None = None,
    start_from: Lora = choices.Pipelines.start_from,
    source_parts: Path | None = None,
    target_parts: Path | None = None,
    effort: str = choices.Effort.effort,
    count: int | None = choices.Dataset.count,
    drawing: Drawing | None = None,
    precision: str = choices.Pipelines.precision,
    one_at_a_time: bool | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
    device: Any = "cpu",
    **more: Any,
) -> Distilled:
    """One or several LoRAs of `source` taught to `target` from synthetic pictures: ``.adapter``, ``.report`` and
    ``.provenance``. Models are opened by diffusers (``pip install "lora-graft[distill]"``).

    With a dataset as the first argument and models that are opened already: as
    :func:`.jobs.distill.distill.distill`, whose `adapters` and `settings` belong to it.

    lora: file, adapter, or (either, strength); several become one adapter.
    source, target: diffusers folders, or single files with a folder of their kind in source_parts and target_parts.
    prompts: to draw from; else they are made from the seed prompts `seeds` and the LoRA's training tags.
    dataset: a file or a dataset that is drawn already.
    start_from: "auto" (a copy of one LoRA, unless the bases are strangers), "none", "copy", or a target's adapter.
    effort: "quick" (for a start from a copy), "normal" or "thorough"; what is set by itself wins.
    count: pictures in all; None for the effort's.
    drawing: a :class:`.jobs.distill.denoiser.Drawing`; None for what suits the models.
    precision, one_at_a_time: see :func:`.pipelines.models.open_models`.
    keep: a folder for checkpoints; the same call goes on there after a stop, and its files go when it is done.
    more: fields of :class:`.jobs.distill.distill.Distillation` and of :class:`.jobs.distill.schedule.Training`:
        ``kind="lora-x"``, ``rank=8``, ``steps=50``, ``batch=4`` …; checkpointing is "auto", "on" or "off".
    """
    if isinstance(lora, Dataset):
        if adapters is None or settings is None:
            raise SettingsError("With models that are opened already, the adapters and the settings are needed too")
        return _distill(lora, source, target, adapters, settings, progress=progress, device=device, **more)
    entries = lora if isinstance(lora, list) else [lora]
    loras = [_weighted(entry) for entry in entries]
    checkpointing = more.pop("checkpointing", choices.Pipelines.checkpointing)
    of_training = {field.name for field in fields(Training)} & more.keys()
    plan = planned(
        effort, noisy_latents=more.pop("noisy_latents", None), **{name: more.pop(name) for name in of_training}
    )
    chosen = Distillation(**more, noisy_latents=plan.noisy_latents, training=plan.training, effort=plan.effort)
    begin = start_from if start_from in choices.Pipelines.starts else _adapter(start_from)
    models = open_models(
        loras,
        source,
        target,
        source_parts=source_parts,
        target_parts=target_parts,
        device=device,
        precision=precision,
        one_at_a_time=one_at_a_time,
    )
    if dataset is None:
        data: Dataset | Data = Data(prompts, seeds, count, plan.training.seed, drawing, effort=effort)
    else:
        data = dataset if isinstance(dataset, Dataset) else _load_dataset(dataset)
    run = Run(None if keep is None else pathlib.Path(keep))
    result = teach(
        models,
        loras,
        chosen,
        dataset=data,
        start_from=begin,
        checkpointing=checkpointing,
        run=run,
        progress=progress,
        device=device,
    )
    run.finished()
    return result


def convert(lora: Lora, layout: str, base: Path | Base | None = None) -> Adapter:
    """The same adapter under the key names of "kohya", "diffusers", "peft" or "comfy"."""
    return _convert(_adapter(lora), layout, None if base is None else _base(base))


def prompts(
    lora: Lora | None = None,
    seeds: Sequence[str] = (),
    *,
    write: Write | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Prompts:
    """Prompts like those an adapter is for: ``.lines``, and ``.note``, which says where they came from.

    lora: its training tags and trigger words are drawn from.
    seeds: prompts like those the adapter is for.
    write: a language model, as a function ``write(text, temperature, seed) -> str``; what it cannot give comes from
        the template.
    settings: ``count``, ``template`` and ``seed`` of :class:`.jobs.distill.prompts.PromptSettings`.
    """
    adapter = None if lora is None else _adapter(lora)
    return synthesize(PromptSettings(seeds, adapter, **settings), write, progress=progress)


def _adapter(lora: Lora) -> Adapter:
    return lora if isinstance(lora, Adapter) else read(lora)


def _base(base: Path | Base) -> Base:
    return open_base(base) if isinstance(base, (str, os.PathLike)) else base


def _weighted(entry) -> tuple[Adapter, float, float]:
    lora, *strengths = entry if isinstance(entry, tuple) else (entry,)
    model = strengths[0] if strengths else 1.0
    return _adapter(lora), model, strengths[1] if len(strengths) > 1 else model
