"""Many LoRAs of one base for another, in parallel processes of this machine or of a cluster.

First the LoRAs are read for the weights they change, then each of these weights is measured once in both bases into
the cache on disk, then the LoRAs are transferred from what was measured. What a transfer computes beyond that is the
subspace of a whole fused weight for a LoRA that was trained inside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from ... import adapters, choices
from ...adapters.peft_folder import is_peft_folder
from ...bases import open_base
from ...errors import GraftError, SettingsError
from ...io.atomic import sweep
from ...io.outputs import ignores_case
from ...names import WeightSlice
from ..cache import SubspaceCache, default_folder
from ..processes import Engine, LocalEngine
from ..results import claim_result, write_result
from .move import has_subspaces
from .pairs import Pairs
from .transfer import TransferSettings, planned, transfer

Weights = tuple[WeightSlice, WeightSlice]  # one weight in the source and in the target


class PhaseProgress(Protocol):
    """Called with the phase, what is done of how much in it, and what was at hand; may raise to stop."""

    def __call__(self, phase: str, done: int, total: int, label: str, /) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    status: "transferred", "present" (the output was there before and was left alone) or "failed".
    error: why it failed.
    method, similarity (mean, corrected for chance), kept_energy, advice: of the transfer's report.
    empty_blocks: number of the target's blocks that receive nothing.
    left_out: number of modules that the threshold left out.
    """

    file: Path
    output: Path
    status: Literal["transferred", "present", "failed"]
    error: str = ""
    method: str = ""
    similarity: float | None = None
    kept_energy: float | None = None
    empty_blocks: int = 0
    advice: str = ""
    left_out: int = 0


@dataclass(frozen=True)
class Job:
    """What every file has in common.

    source, target: checkpoints or diffusers folders.
    dtype, layout: as :func:`..adapters.write` takes them.
    report: suffix of a report beside each output, ".md" or ".json"; None for none.
    overwrite: write over outputs that exist.
    cache: folder of subspaces; None for the user's own.
    """

    source: Path
    target: Path
    settings: TransferSettings = field(default_factory=TransferSettings)
    dtype: str | None = choices.File.dtype
    layout: str = choices.File.layout
    report: str | None = None
    overwrite: bool = False
    device: str = "cpu"
    cache: Path | None = None


def find_files(patterns: Iterable[str], folder: Path, *, below: Path | None = None) -> dict[Path, Path]:
    """Input → output of all adapters that match, files and PEFT folders; each keeps its place below the part of the
    pattern without wildcards.

    Files in the output folder are what an earlier call made, and no inputs.

    Args:
        below: the folder that relative patterns start from; the current one by default.

    Raises:
        GraftError: nothing matches, an output would be an input or come from two, or the folder is a file.
    """
    if folder.is_file():
        raise GraftError("the output of many transfers is a folder, and this is a file", file=folder)
    inputs: dict[Path, Path] = {}
    for pattern in patterns:
        parts = Path(pattern).expanduser().parts
        fixed = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
        root = Path(below or "", *parts[:fixed])
        found = sorted(glob(str(Path(*parts)), root_dir=below, recursive=True))
        files = [Path(below or "", f) for f in found]
        files = [f for f in files if f.suffix.lower() == ".safetensors" and f.is_file() or is_peft_folder(f)]
        if not files:
            raise GraftError(f"{pattern!r} matches no .safetensors file and no PEFT folder")
        folders = {f for f in files if f.is_dir()}
        files = [f for f in files if f.parent not in folders]
        if folder.resolve() == root.resolve():
            raise GraftError("the outputs would overwrite the inputs", file=folder, hint="Choose another folder.")
        if folder.resolve().is_relative_to(root.resolve()):
            files = [f for f in files if not f.resolve().is_relative_to(folder.resolve())]
        inputs |= {f: folder / f.relative_to(root) for f in files}
    spelled: dict[str, Path] = {}
    for file, output in inputs.items() if ignores_case(folder.resolve()) else ():
        other = spelled.setdefault(str(output).casefold(), file)
        if other is not file:
            raise GraftError(
                f"the outputs of {file} and {other} would be one file: the file system there does not tell A from a",
                file=output,
                hint="Rename one of them, or call once for each.",
            )
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


def transfer_many(
    files: Mapping[Path, Path],
    job: Job,
    *,
    processes: int | None = None,
    keep_cache: bool = True,
    progress: PhaseProgress | None = None,
    engine: Engine | None = None,
    each: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Transfer every input to its output; what fails is noted and the rest goes on. In the order of the files.

    Args:
        files: input → output, as :func:`find_files` gives them. Outputs that exist are left alone unless overwritten.
        processes: of :class:`..processes.LocalEngine`, the engine unless another one is given.
        keep_cache: use and fill the job's cache of subspaces, not one that lasts as long as this call.
        progress: called in this process.
        engine: where the work is done. With a shared one, files and bases have absolute names that mean the same on
            every machine, and so has the cache, by which the machines share what is measured.
        each: called in this process with every outcome as it comes.

    Raises:
        GraftError: a base cannot be opened.
        SettingsError: a shared engine without a cache that is kept.
    """
    engine = engine or LocalEngine(processes)
    if engine.shared and not keep_cache:
        raise SettingsError("machines of a cluster share the bases' subspaces through the cache, which must be kept")
    for base in (job.source, job.target):
        open_base(base)  # what is wrong with it is known before any process starts
    outcomes: dict[Path, Outcome] = {}
    phase, tell = progress or (lambda name, done, total, label: None), each or (lambda outcome: None)

    def ended(outcome: Outcome) -> None:
        outcomes[outcome.file] = outcome
        tell(outcome)

    for file, output in files.items():
        if output.exists() and not job.overwrite:
            ended(Outcome(file, output, "present"))
    work = {file: output for file, output in files.items() if file not in outcomes}
    if not work:
        return [outcomes[file] for file in files]
    with ExitStack() as stack:
        if engine.shared:
            job = replace(job, cache=(job.cache or default_folder()).absolute())
        if not keep_cache:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="lora-graft-"))
            job = replace(job, cache=Path(scratch))
        crew = stack.enter_context(engine.crew(len(work), Worker.begin, job, device=job.device))
        needed: dict[Weights, None] = {}
        for file, weights, why in crew.each(_weights_of, work, partial(phase, "Reading"), _file_name):
            needed |= dict.fromkeys(weights or ())
            if why:
                ended(Outcome(file, work[file], "failed", why))
        for _ in crew.each(_measure, needed, partial(phase, "Measuring the bases"), _weight_name):
            pass  # what cannot be measured fails again below, under its file's name
        readable = [item for item in work.items() if item[0] not in outcomes]
        for item, outcome, why in crew.each(_transfer, readable, partial(phase, "Transferring"), _output_name):
            ended(outcome or Outcome(*item, "failed", why))
    for folder in {output.parent for output in work.values()}:
        sweep(folder)  # a process that was killed cannot tidy up, and those that live looked before
    return [outcomes[file] for file in files]


class Worker:
    """One process: both bases opened once, and what is done there for a file or a weight."""

    current: ClassVar[Worker]

    def __init__(self, job: Job):
        self.job, self.cache = job, SubspaceCache(job.cache)
        self.reported: set[Weights] = set()
        self.source, self.target = open_base(job.source), open_base(job.target)

    @classmethod
    def begin(cls, job: Job) -> None:
        """Make this process's worker."""
        cls.current = cls(job)

    def pairs(self) -> Pairs:
        """The subspaces of both bases, from the cache where it has them."""
        return Pairs(self.source, self.target, self.job.settings.size, self.cache, self.job.device)

    def weights_of(self, file: Path) -> set[Weights]:
        """The weights whose subspaces the file's transfer will look at; what its plan looks at is measured by this."""
        adapter, pairs = adapters.read(file), self.pairs()
        steps = planned(adapter, pairs, self.job.settings)[0].steps
        if not self.job.settings.needs_subspaces:
            return set()
        needed = [(step.source, step.target) for step in steps if has_subspaces(step, pairs)]
        return {(ours, theirs) for ours, theirs in needed if ours is not None and theirs is not None}

    def measure(self, weights: Weights) -> None:
        """Put a weight's subspaces in both bases, slice by slice, into the cache; equal weights need none."""
        pairs = self.pairs()
        if not pairs.same(*weights):
            pairs.by_slice(*weights)

    def transfer(self, file: Path, output: Path) -> Outcome:
        """Transfer one file and write it, with its report; an output that is there meanwhile is left alone.

        A process that dies just after it wrote the file has its work given to another, which then finds it done.
        """
        job = self.job
        if output.exists() and not job.overwrite:
            return Outcome(file, output, "present")
        claim_result(output, job.report, overwrite=job.overwrite, folder=file.is_dir())
        result = transfer(
            adapters.read(file), self.source, self.target, job.settings, cache=self.cache, device=job.device
        )
        report, totals = result.report, result.report.totals
        write_result(
            result,
            output,
            job.report,
            overwrite=job.overwrite,
            dtype=job.dtype,
            layout=job.layout,
            names=self.target.names,
        )
        figures = (report.method, totals["mean_similarity"], totals["kept_energy"], len(report.empty_blocks))
        return Outcome(file, output, "transferred", "", *figures, report.advice, totals["left_out"])


# Functions of the module, because a process is sent the name of what it is to do.


def _weights_of(file: Path) -> set[Weights]:
    """Those that this process has not reported before: most LoRAs of a shelf change the same weights."""
    worker = Worker.current
    news = worker.weights_of(file) - worker.reported
    worker.reported |= news
    return news


def _measure(weights: Weights) -> None:
    Worker.current.measure(weights)


def _transfer(files: tuple[Path, Path]) -> Outcome:
    return Worker.current.transfer(*files)


def _file_name(file: Path) -> str:
    return file.name


def _output_name(files: tuple[Path, Path]) -> str:
    return files[0].name


def _weight_name(weights: Weights) -> str:
    return weights[0].name
