"""How alike two bases are, weight by weight."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ...adapters import Adapter
from ...bases.model import Base
from ...errors import BaseModelError
from ...kernels.precision import full_precision
from ...kernels.spectral import SubspaceSize
from ...kernels.threads import one_thread
from ...names import WeightSlice, describe
from ..cache import SubspaceCache
from ..memory import memory_told
from ..progress import Progress, silent
from .advice import relation, strangers
from .move import likeness
from .pairs import Pairs
from .plan import counterparts, plan
from .report import ModuleReport, Report
from .slices import shape_of


@full_precision()
@one_thread()
@memory_told("Take a smaller subspace (k, or k as a share), or work on the CPU.")
def compare(
    source: Base,
    target: Base,
    size: SubspaceSize | None = None,
    *,
    adapter: Adapter | None = None,
    progress: Progress | None = None,
    cache: SubspaceCache | None = None,
    device: torch.device | str | None = None,
) -> Report:
    """Φ, its corrected value and the drift of every weight matrix, or of those that an adapter changes.

    Raises:
        BaseModelError: the two bases have no weight matrix in common.
        AdapterError: the adapter does not belong to the source.
    """
    size, tell = size or SubspaceSize(), progress or silent
    started = time.perf_counter()
    pairs = Pairs(source, target, size, cache, device or "cpu")
    wanted = _weight_slices(source, target, adapter)
    lines = []
    for done, (ours, theirs) in enumerate(wanted):
        tell(done, len(wanted), ours.name)
        lines.append(_line(ours, theirs, pairs))
    tell(len(wanted), len(wanted), "")
    if not any(line.matched for line in lines):
        raise BaseModelError(
            f"{source.label} ({source.architecture}) and {target.label} ({target.architecture}) have no weight "
            "of equal role in common",
            file=target.label,
            hint="Compare two models of one architecture.",
        )
    report = Report(
        job="compare",
        source=source.label,
        target=target.label,
        adapter=Path(adapter.file).name if adapter and adapter.file else "",
        settings={"size": str(size)},
        modules=lines,
        unmatched=[line.label for line in lines if line.matched is None],
    )
    report.advice = "distil" if strangers(report) else "copy"
    report.advice_reason = relation(report)
    report.elapsed = time.perf_counter() - started
    return report


def _weight_slices(source: Base, target: Base, adapter: Adapter | None) -> list[tuple[WeightSlice, WeightSlice | None]]:
    if adapter is not None:
        changed = [(step.source, step.target) for step in plan(adapter, source, target)]
        return list({(s, t): None for s, t in changed if s is not None and len(shape_of(source, s)) > 1})
    matrices = [n for n, shape in source.weights().items() if len(shape) > 1 and min(shape[0], shape[1]) > 1]
    groups = {n.split(".", 1)[0] for n in target.weights()}
    matrices = [n for n in matrices if n.split(".", 1)[0] in groups]
    partners = counterparts(source, target, matrices).items()
    return [(WeightSlice(name), None if partner is None else WeightSlice(partner)) for name, partner in partners]


def _line(ours: WeightSlice, theirs: WeightSlice | None, pairs: Pairs) -> ModuleReport:
    shape = shape_of(pairs.source, ours)
    block, role = describe(ours.name)
    line = ModuleReport(name=ours.name, rows=ours.rows, block=block, role=role, shape=list(shape), decision="compared")
    if theirs is None:
        line.reason = "no counterpart"
        return line
    line.matched = theirs.name
    pairs_of_slices = [pair for _, pair in pairs.by_slice(ours, theirs)]
    if not pairs_of_slices:
        line.reason = "vectors have no subspace"
        return line
    for name, value in likeness(pairs_of_slices).items():
        setattr(line, name, value)
    line.rounded = pairs.rounded(ours, theirs)
    return line
