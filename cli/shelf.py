"""``lora-graft transfer --all``: a whole shelf of LoRAs for another base, in parallel processes.

First the LoRAs are read for the weights they change, then each of these weights is measured once in both bases into
the cache on disk, then the LoRAs are transferred from what was measured.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import GraftError
from .guard import told
from .output import claim, staged
from .progress import progress

if TYPE_CHECKING:
    from ..jobs.transfer.transfer import TransferSettings

Line = tuple[str, "float | None", "float | None", int, str]  # method, similarity, kept energy, empty blocks, advice


@dataclass(frozen=True)
class Order:
    """What every process is told. cache: folder of subspaces, None for the user's own; report: suffix or None."""

    source: Path
    target: Path
    settings: TransferSettings
    device: str
    dtype: str | None
    layout: str
    report: str | None
    force: bool
    threads: int
    cache: Path | None = None


@dataclass
class Shelf:
    """What became of it. done: file → figures; there: outputs from before; failed: file → why."""

    done: dict[Path, Line]
    there: list[Path]
    failed: dict[Path, str]


def find(patterns: list[str], folder: Path) -> dict[Path, Path]:
    """Input → output of all files that match; each keeps its place below the part of the pattern without wildcards.

    Files in the output folder are what an earlier call made, and no inputs.

    Raises:
        GraftError: nothing matches, or an output would be an input or come from two.
    """
    inputs: dict[Path, Path] = {}
    for pattern in patterns:
        parts = Path(pattern).expanduser().parts
        root = Path(*parts[: next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)])
        files = [Path(f) for f in sorted(glob(str(Path(*parts)), recursive=True))]
        files = [f for f in files if f.is_file() and f.suffix.lower() == ".safetensors"]
        if not files:
            raise GraftError(f"{pattern!r} matches no .safetensors file")
        if folder.resolve() == root.resolve():
            raise GraftError("the outputs would overwrite the inputs", file=folder, hint="Choose another folder.")
        if folder.resolve().is_relative_to(root.resolve()):
            files = [f for f in files if not f.resolve().is_relative_to(folder.resolve())]
        inputs |= {f: folder / f.relative_to(root) for f in files}
    taken: dict[Path, Path] = {f.resolve(): f for f in inputs}
    for file, output in inputs.items():
        other = taken.setdefault(output.resolve(), file)
        if other is not file:
            raise GraftError(
                f"the output of {file} would overwrite or meet that of {other}",
                file=output,
                hint="Choose another folder, or call once for each.",
            )
    return inputs


def transfer_all(pairs: dict[Path, Path], order: Order, jobs: int, *, keep: bool = True) -> Shelf:
    """Transfer every input to its output; what fails is noted and the rest goes on.

    Args:
        keep: use and fill the user's own cache of subspaces, not one that lasts as long as this call.
    """
    shelf = Shelf({}, [o for o in pairs.values() if o.exists() and not order.force], {})
    work = {file: output for file, output in pairs.items() if output not in shelf.there}
    with ExitStack() as stack:
        if not keep:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="lora-graft-"))
            order = replace(order, cache=Path(scratch))
        crew = stack.enter_context(Crew(order, min(jobs, len(work))))
        needed: dict[tuple, None] = {}
        for file, (weight_slices, why) in crew.each(_weight_slices, work, "Reading"):
            needed |= dict.fromkeys(weight_slices or ())
            if why:
                shelf.failed[file] = why
        for _ in crew.each(_measure, needed, "Measuring the bases"):
            pass  # what cannot be measured fails again below, under its file's name
        left = [item for item in work.items() if item[0] not in shelf.failed]
        for (file, _), (line, why) in crew.each(_transfer, left, "Transferring"):
            if why:
                shelf.failed[file] = why
            else:
                shelf.done[file] = line
    return shelf


class Crew:
    """Processes that have opened both bases; they are ended at once when the body fails or is interrupted."""

    def __init__(self, order: Order, jobs: int):
        self.order, self.jobs = order, jobs
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind, *error) -> None:
        self._end(at_once=kind is not None)

    def each(self, task: Callable, items: Iterable, what: str) -> Iterator[tuple]:
        """(item, (result, why not)) of a task, as they come.

        When a process dies, what was unfinished is done one by one, so that only the item at fault fails.
        """
        items = list(items)
        left = dict.fromkeys(items)
        with progress(what) as tell:
            for item, answer in self._answers(task, items, left):
                del left[item]
                tell(len(items) - len(left), len(items), _label(item))
                yield item, answer

    def _answers(self, task: Callable, items: list, left: dict) -> Iterator[tuple]:
        try:
            waiting = {self._started(self.jobs).submit(_guarded, task, item): item for item in items}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            self._end(at_once=True)
            for item in list(left):
                try:
                    answer = self._started(1).submit(_guarded, task, item).result()
                except BrokenProcessPool:
                    self._end(at_once=True)
                    answer = None, "its process was ended from outside, perhaps for want of memory"
                yield item, answer
            self._end(at_once=False)

    def _started(self, jobs: int) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_open, initargs=(self.order,))
        return self._pool

    def _end(self, *, at_once: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=not at_once, cancel_futures=at_once)
            for process in set(multiprocessing.active_children()) - self._others if at_once else ():
                process.terminate()
            self._pool = None


def _label(item: object) -> str:
    first = item[0] if isinstance(item, tuple) else item
    return first.name if isinstance(first, Path) else str(getattr(first, "name", first))


# What follows runs in the processes of the pool.

_here: dict = {}


def _open(order: Order) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    import torch

    from ..bases import open_base
    from ..jobs.cache import SubspaceCache

    torch.set_num_threads(min(order.threads, torch.get_num_threads()))  # threads that wait for each other crawl
    _here.update(
        order=order, source=open_base(order.source), target=open_base(order.target), cache=SubspaceCache(order.cache)
    )


def _guarded(task: Callable, item: object) -> tuple[object, str | None]:
    """(result, None), or (None, what went wrong)."""
    from ..kernels.threads import one_thread

    try:
        with one_thread():
            return task(item), None
    except (GraftError, OSError, MemoryError) as error:
        return None, told(error)
    except Exception as error:  # one odd file must not stop the others
        return None, f"{type(error).__name__}: {error}"


def _pairs():
    from ..jobs.transfer.pairs import Pairs

    order = _here["order"]
    return Pairs(_here["source"], _here["target"], order.settings.size, _here["cache"], order.device)


def _weight_slices(file: Path) -> set[tuple]:
    """The pairs of weights whose subspaces a LoRA's transfer will ask for."""
    from .. import adapters
    from ..jobs.transfer.plan import parts, plan, shape_of
    from ..jobs.transfer.transfer import probe
    from ..kernels.transfer import METHODS

    method = _here["order"].settings.method
    adapter, source, target = adapters.read(file), _here["source"], _here["target"]
    if method != "auto" and not METHODS[method].needs_subspaces:
        return set()
    found = set()
    for step in plan(adapter, source, target, probe(_pairs())):
        if step.source is None or step.target is None or len(shape_of(source, step.source)) < 2:
            continue
        ours, theirs = parts(source, step.source), parts(target, step.target)
        alike = len(ours) == len(theirs)
        found |= set(zip(ours, theirs, strict=True)) if alike else {(step.source, step.target)}
    return found


def _measure(weight_slices: tuple) -> None:
    pairs = _pairs()
    if not pairs.same(*weight_slices):
        pairs.pair(*weight_slices)


def _transfer(work: tuple[Path, Path]) -> Line:
    from .. import adapters
    from ..jobs.transfer.transfer import transfer

    (file, output), order = work, _here["order"]
    report = output.with_suffix(order.report) if order.report else None
    output.parent.mkdir(parents=True, exist_ok=True)
    claim(output, report, force=order.force)
    result = transfer(
        adapters.read(file),
        _here["source"],
        _here["target"],
        order.settings,
        cache=_here["cache"],
        device=order.device,
    )
    told = result.report.to_markdown() if order.report == ".md" else result.report.to_json()
    with staged({report: told.encode()} if report else {}):
        adapters.write(
            result.adapter,
            output,
            dtype=order.dtype,
            layout=order.layout,
            names=_here["target"].names,
            overwrite=order.force,
            provenance=result.provenance,
        )
    found, totals = result.report, result.report.totals
    return found.method, totals["mean_similarity"], totals["kept_energy"], len(found.empty_blocks), found.advice
