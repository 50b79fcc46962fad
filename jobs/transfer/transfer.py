"""The main job: an adapter of one base rebuilt for another, module by module, without training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...adapters import Adapter, AdapterModule, lora_module
from ...bases.model import Base, load_weight_slice
from ...errors import AdapterError, SettingsError
from ...kernels import lowrank
from ...kernels.matching import Item
from ...kernels.precision import full_precision
from ...kernels.similarity import phi
from ...kernels.spectral import SubspaceSize
from ...kernels.threads import one_thread
from ...names import WeightSlice
from ...version import __version__
from ..cache import SubspaceCache
from ..check import check_fits
from ..memory import memory_told
from ..progress import Progress, silent
from ..text import percent
from ..whole_weights import carried
from .advice import advise, strangers
from .fill import Filling, fill
from .move import INSIDE, Moved, move
from .pairs import Pairs
from .plan import Plan, Step, lay_out
from .report import DECISION_DROPPED, DECISION_LEFT_OUT, Report, kept_energy
from .settings import TransferSettings
from .uncovered import empty_blocks

PROBE_K = 32


@dataclass
class TransferResult:
    """adapter: for the target; report: what survived; provenance: for the file's metadata."""

    adapter: Adapter
    report: Report
    provenance: dict[str, object]


@full_precision()
@one_thread()
@memory_told("Take a smaller subspace (k, or k as a share), or work on the CPU.")
def transfer(
    adapter: Adapter,
    source: Base,
    target: Base,
    settings: TransferSettings | None = None,
    *,
    progress: Progress | None = None,
    cache: SubspaceCache | None = None,
    device: torch.device | str | None = None,
) -> TransferResult:
    """Rebuild an adapter of `source` for `target`.

    Args:
        progress: called with (done, total, label) before each module and at the end; may raise to cancel.
        cache: where subspaces are kept between calls; None computes them anew.
        device: where the work is done; the CPU by default. Results are on the CPU.

    Raises:
        AdapterError: the adapter does not belong to the source base, or nothing of it fits the target.
        BaseModelError: a base weight cannot be read.
    """
    settings, tell = settings or TransferSettings(), progress or silent
    started = time.perf_counter()
    pairs = Pairs(source, target, settings.size, cache, device or "cpu")
    plan, fillings = planned(adapter, pairs, settings)
    extras, of_extras = carried(adapter, source, target)
    steps, moved = plan.steps, []
    for done, step in enumerate(steps):
        tell(done, len(steps), step.key)
        moved.append(move(step, settings.methods, pairs, rank=settings.rank, measured=settings.filters_copies))
    tell(len(steps), len(steps), "")

    inside = _inside(moved)
    method = _choose(settings.method, moved, inside)
    leave_out = settings.leaves_out(method)
    chosen = [m.filtered(method, settings.threshold, leave_out=leave_out) for m in moved]
    report = Report(
        job="transfer",
        source=source.label,
        target=target.label,
        adapter=Path(adapter.file).name if adapter.file else "",
        method_asked=settings.method,
        method=method,
        settings={
            "size": str(settings.size),
            "threshold": settings.threshold,
            **({"below_threshold": "leave-out" if leave_out else "copy"} if settings.threshold else {}),
            "rank": settings.rank,
            "strength": settings.strength,
        },
        modules=[line for _, line in chosen],
        unmatched=[line.label for _, line in chosen if line.decision == DECISION_DROPPED],
        extras=[] if adapter.peft else list(adapter.extras),
    )
    _refuse_nothing(report, steps, adapter, target)
    _refuse_all_left_out(report, moved, adapter)
    report.empty_blocks = empty_blocks(steps, report.modules, plan.unfed, target)
    report.filled_blocks = {one.block: one.taken_from for one in fillings}
    report.advice, report.advice_reason = advise(report, inside=inside)
    report.copy_baseline = _copy_baseline(moved, method)
    report.notes = [*_of_blocks(plan, fillings), *of_extras, *_notes(report, steps, source, target)]
    report.block_map = plan.pruning_map.name if plan.pruning_map else "search" if plan.searched else ""
    report.elapsed = time.perf_counter() - started
    modules = {module.key: module for module, _ in chosen if module is not None}
    fitted = {step.key for step in steps if step.target is not None}
    if settings.strength != 1.0:
        modules = {m.key: scaled(m, settings.strength, target) for m in modules.values()}
    check_fits([m for m in modules.values() if m.key in fitted], target.names, target.weights())
    peft = adapter.peft and adapter.peft.for_base(str(getattr(target, "path", target.label)))
    result = replace(adapter, modules=modules, extras=extras, peft=peft, file=None, digest="")
    return TransferResult(result, report, _provenance(adapter, source, target, settings, report))


def planned(adapter: Adapter, pairs: Pairs, settings: TransferSettings) -> tuple[Plan, list[Filling]]:
    """The plan with its steps that fill blocks, and which blocks those are."""
    source, target, alike = pairs.source, pairs.target, probe(pairs)
    plan = lay_out(adapter, source, target, alike, published=settings.match_blocks == "auto")
    if settings.fill == "none":
        return plan, []
    more, fillings = fill(plan, source, target, alike)
    return replace(plan, steps=[*plan.steps, *more]), fillings


def _choose(asked: str, moved: list[Moved], inside: float | None) -> str:
    """lora-x for an adapter inside its base's subspaces; copy otherwise; lora-x where only it can change sizes."""
    if asked != "auto":
        return asked
    if inside is not None and inside >= INSIDE:
        return "lora-x"
    copied = [m.results["copy"][0] for m in moved if m.results["copy"][1].matched]
    projected = [m.results["lora-x"][0] for m in moved if m.results["lora-x"][1].matched]
    return "lora-x" if not any(copied) and any(projected) else "copy"


def _inside(moved: list[Moved]) -> float | None:
    """Share of the whole update's energy inside the source's subspaces, over the modules where it was measured."""
    energy = sum(m.energy for m in moved if m.energy is not None)
    return sum(m.inside for m in moved if m.inside is not None) / energy if energy > 0 else None


def probe(pairs: Pairs) -> Callable[[Item, Item], float]:
    """Mean Φ of the top few directions of two weights, for matching blocks where depths differ."""
    small = Pairs(pairs.source, pairs.target, SubspaceSize(k=PROBE_K), pairs.cache, pairs.device)

    def similarity(ours: Item, theirs: Item) -> float:
        if len(ours.shape) < 2 or ours.shape != theirs.shape:
            return 0.0
        pair = small.pair(WeightSlice(ours.name), WeightSlice(theirs.name))
        return (phi(pair.source.left, pair.target.left) + phi(pair.source.right, pair.target.right)) / 2

    return similarity


def _refuse_nothing(report: Report, steps: list[Step], adapter: Adapter, target: Base) -> None:
    """An adapter of which nothing fits the target is an error, not an empty file."""
    planned = [line for line, step in zip(report.modules, steps, strict=True) if step.source is not None]
    if planned and all(line.decision == DECISION_DROPPED for line in planned):
        raise AdapterError(
            f"nothing of the adapter fits {target.label} ({target.architecture}): {planned[0].reason}",
            file=adapter.file,
            key=planned[0].key,
            hint="The target is of another architecture; weights alone do not bridge that. Distil the adapter instead.",
        )


def _refuse_all_left_out(report: Report, moved: list[Moved], adapter: Adapter) -> None:
    """A threshold that nothing reaches is an error, not an empty file."""
    left = [(m.phi, line) for m, line in zip(moved, report.modules, strict=True) if line.decision == DECISION_LEFT_OUT]
    if left and all(line.decision in (DECISION_DROPPED, DECISION_LEFT_OUT) for line in report.modules):
        best, line = max(left, key=lambda one: one[0] or 0.0)
        raise SettingsError(
            f"the threshold {report.settings['threshold']:g} leaves out everything that fits {report.target}: "
            f"{len(left)} modules, of which the most similar has a mean Φ of {best:.2f}",
            file=adapter.file,
            key=line.key,
            hint="Lower the threshold, or have the modules below it copied.",
        )


def _copy_baseline(moved: list[Moved], method: str) -> dict:
    """The same totals for plain copying, which is done beside every other method."""
    if method == "copy":
        return {}
    totals = Report(job="transfer", modules=[m.results["copy"][1] for m in moved]).totals
    return {name: totals[name] for name in ("kept_energy", "norm_ratio", "dropped")}


def _of_blocks(plan: Plan, fillings: list[Filling]) -> list[str]:
    """How the blocks of bases of different depth were matched."""
    if plan.pruning_map is not None:
        return [f"Blocks feed one another by the published map of {plan.pruning_map.name} ({plan.pruning_map.source})."]
    searched = (
        ["Blocks feed one another by similarity and order: no published map says which."] if plan.searched else []
    )
    return searched + [
        f"{one.block} has no block of its own in the source and takes the update of {one.taken_from}, the most similar "
        f"(Φ {one.phi:.2f}): the effect comes out stronger than without."
        for one in fillings
    ]


def _notes(report: Report, steps: list[Step], source: Base, target: Base) -> list[str]:
    notes = []
    if source.architecture != target.architecture:
        notes.append(f"The source looks like {source.architecture}, the target like {target.architecture}.")
    dropped = report.totals["dropped"]
    if dropped:
        notes.append(f"{dropped} modules have no place in {report.target} and are left out; see the table for each.")
    carried = Counter(step.reason for step in steps if step.source is None)
    for reason, count in carried.items():
        notes.append(f"{count} modules travel unchanged: {reason}.")
    if report.extras:
        notes.append(f"{len(report.extras)} keys that no format explains are kept as they are.")
    if report.method_asked not in ("auto", "copy") and report.method != "copy" and not strangers(report):
        carried_over = [line for line in report.modules if line.decision != DECISION_LEFT_OUT]
        kept, plain = kept_energy(carried_over), report.copy_baseline["kept_energy"]
        if kept is not None and kept < 0.5 and plain is not None and plain > kept:
            notes.append(
                f"{report.method} kept {kept:.0%} of the update's energy where a plain copy keeps {percent(plain)}: "
                "an ordinary LoRA does not lie in its base's leading subspaces."
            )
    return notes


def scaled(module: AdapterModule, strength: float, target: Base) -> AdapterModule:
    """The module with its update multiplied; formats that cannot say so become plain factors."""
    try:
        return module.scaled(strength)
    except AdapterError:
        weight_slice = target.names.resolve(module.key)
        if weight_slice is None or weight_slice.name not in target.weights():
            raise
        weight = load_weight_slice(target, weight_slice)
        return lora_module(module.key, lowrank.scale(module.low_rank(weight), strength), shape=tuple(weight.shape))


def _provenance(
    adapter: Adapter, source: Base, target: Base, settings: TransferSettings, report: Report
) -> dict[str, object]:
    return {
        "version": __version__,
        "job": "transfer",
        "method": report.method,
        "settings": {**report.settings, "method": settings.method},
        "adapter": report.adapter,
        "adapter_sha256": adapter.digest,
        "source": source.label,
        "source_fingerprint": source.fingerprint,
        "target": target.label,
        "target_fingerprint": target.fingerprint,
        "kept_energy": report.totals["kept_energy"],
    }
