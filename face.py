"""LoRA Graft from Python: the jobs, with file names wherever a user has files. ``import lora_graft`` offers all of it.

Every job returns what it made and a report; nothing is written but by :func:`write` and :func:`transfer_many`. An
adapter is a file name or an :class:`~.adapters.Adapter`, a base a file name (checkpoint or diffusers folder) or an
opened :class:`~.bases.Base`. Settings are keyword arguments, named as in the job's settings. Errors are
:class:`~.errors.GraftError`, with the file.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any, TypeAlias

from .adapters import Adapter, read, write
from .bases import Base, open_base
from .jobs.convert import convert as _convert
from .jobs.distill.distill import distill
from .jobs.distill.prompts import Prompts, PromptSettings, synthesize
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
