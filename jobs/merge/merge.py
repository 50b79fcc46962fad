"""Several LoRAs of any ranks, formats and trainers become one, module by module."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import torch

from ... import choices
from ...adapters import Adapter
from ...adapters.alphas import with_one_alpha
from ...adapters.metadata import history, without_history
from ...bases.model import Base
from ...errors import SettingsError
from ...kernels.merge import METHODS
from ...kernels.precision import full_precision
from ...kernels.threads import one_thread
from ...version import __version__
from ..check import check_fits
from ..memory import memory_told
from ..progress import Progress, silent
from ..whole_weights import joined
from ..workers import in_order
from .architecture import names_for
from .files import DTYPES, joined_extras, merged_metadata, widest
from .lines import SourceLora
from .module import Merger
from .report import MergeReport
from .settings import MergeSettings, Weighted
from .targets import MergeTarget, find_targets
from .task_vectors import bound

__all__ = ["MergeResult", "MergeSettings", "Weighted", "merge"]


@dataclass
class MergeResult:
    """adapter: the one LoRA; report: what became of the several; provenance: for the file's metadata."""

    adapter: Adapter
    report: MergeReport
    provenance: dict[str, object]


@full_precision()
@one_thread()
@memory_told(
    "Merge fewer LoRAs at a time, with a method that needs no whole weight (lego, svd, concat), or work on the CPU."
)
def merge(
    adapters: Sequence[tuple[Adapter, float, float]],
    settings: MergeSettings | None = None,
    *,
    base: Base | None = None,
    progress: Progress | None = None,
    device: torch.device | str | None = None,
) -> MergeResult:
    """Merge LoRAs into one, in the first one's layout.

    Args:
        adapters: :class:`.settings.Weighted` or plain (adapter, strength on the model, strength on the text encoder);
            a strength means what it means in a loader, negatives included. One adapter alone is pruned to the rank.
        base: the model they are for. Needed for modules that act through its weights (DoRA, OFT …) and where the
            files name the same weights in ways that only the base can match.
        progress: called with (done, total, label) before each module and at the end; may raise to cancel.
        device: where the work is done; the CPU by default.

    Raises:
        SettingsError: nothing to merge, every strength 0 or not finite, a rank above the possible.
        AdapterError: the LoRAs are for different architectures or not for the base, or a module needs the base.
    """
    settings, tell = settings or MergeSettings(), progress or silent
    started = time.perf_counter()
    given = [Weighted(*entry) for entry in adapters]
    loras = _sources(given)
    numbers = [i for i, lora in enumerate(loras) if not lora.left_out]
    used = [given[i] for i in numbers]
    files = [entry.adapter for entry in used]
    names = names_for(files, base)
    targets = find_targets(files, names, from_base=base is not None)
    _check_rank(settings, targets)
    dtype = DTYPES[settings.dtype] or widest(files)
    merger = Merger(used, numbers, len(loras), settings, base, dtype, device or "cpu")
    lines, modules = [], {}
    with closing(in_order(merger, targets, here=merger.here)) as merged:
        for done, target in enumerate(targets):
            tell(done, len(targets), target.label)
            for module, line in next(merged):
                if module.key in modules:
                    module.fail("Two weights of the LoRAs would be written under one key")
                modules[module.key] = module
                lines.append(line)
    tell(len(targets), len(targets), "")
    if not modules:
        raise SettingsError("every module's strength is 0: nothing is left to merge")
    modules = with_one_alpha(modules)
    check_fits(modules.values(), names, base.weights() if base else None)
    method = METHODS[settings.method]
    extras, clashes = joined_extras(files)
    peft, of_extras = joined(files, clashes)
    report = MergeReport(
        job="merge",
        method=method.name,
        display=method.display,
        paper=method.paper,
        loras=loras,
        settings=settings.effective(),
        modules=lines,
        extras=[] if peft else list(extras),
    )
    report.notes = [*_notes(report, settings, clashes), *of_extras]
    report.elapsed = time.perf_counter() - started
    own = [replace(file, metadata=without_history(file.metadata)) for file in files]
    metadata = merged_metadata(own, report.totals)
    result = replace(files[0], modules=modules, extras=extras, metadata=metadata, peft=peft)
    result = replace(result, file=None, digest="", aliases={})
    return MergeResult(result, report, _provenance(given, loras, settings, report, base))


def _sources(given: Sequence[Weighted]) -> list[SourceLora]:
    """One line per LoRA; those of strength 0 are marked as left out.

    Raises:
        SettingsError: the list is empty, a strength is not a number, or all are 0.
    """
    if not given:
        raise SettingsError("there is nothing to merge: the list of LoRAs is empty")
    loras = []
    for number, (adapter, model, clip) in enumerate(given):
        name = re.split(r"[\\/]", adapter.file)[-1] if adapter.file else f"LoRA {number + 1}"
        if not all(abs(s) < float("inf") for s in (model, clip)):
            raise SettingsError(f"the strength of {name} is not a finite number", file=adapter.file)
        zero = "strength 0: left out" if model == 0 and clip == 0 else ""
        loras.append(SourceLora(name, float(model), float(clip), len(adapter.modules), zero))
    if all(lora.left_out for lora in loras):
        raise SettingsError("all strengths are 0: nothing is left to merge", hint="Give at least one a strength.")
    return loras


def _check_rank(settings: MergeSettings, targets: list[MergeTarget]) -> None:
    if isinstance(settings.rank, str):
        return
    sums = [
        sum(bound(c.module) for c in target.contributions if c.module.kind not in ("bias", "norm", "diff", "set"))
        for target in targets
    ]
    if 0 < max(sums, default=0) < settings.rank:
        raise SettingsError(
            f"rank {settings.rank} is above the possible: the ranks of these LoRAs add up to {max(sums)} at most",
            hint=f"Choose a rank up to {max(sums)}, or {', '.join(choices.Merge.ranks)}.",
        )


def _notes(report: MergeReport, settings: MergeSettings, clashes: list[str]) -> list[str]:
    notes = [f"{lora.name} has strength 0 and is left out." for lora in report.loras if lora.left_out]
    used = [i for i, lora in enumerate(report.loras) if not lora.left_out]
    for i in used if len(used) > 1 else []:
        own = [m for m in report.modules if m.sources == [i]]
        if own:
            blocks = ", ".join(list(dict.fromkeys(m.block or m.key for m in own))[:3])
            notes.append(f"{len(own)} modules are in {report.loras[i].name} alone and are kept ({blocks} …).")
    if len(used) > 1 and all(len(m.sources) < 2 for m in report.modules):
        notes.append("The LoRAs have no module in common: nothing mixes, they stand side by side in one file.")
    if isinstance(settings.rank, int):
        short = sum(
            m.decision == settings.method and (m.rank_out or settings.rank) < settings.rank for m in report.modules
        )
        if short:
            notes.append(f"{short} modules have less than rank {settings.rank}: their sources hold no more.")
    chosen = next((m for m in report.modules if m.decision == settings.method and m.reason), None)
    if settings.rank == "auto" and chosen:
        notes.append(
            f"Rank auto took for each module the smallest that keeps {settings.energy:.0%} of the sum's energy; "
            f"{chosen.name or chosen.key}, for one: {chosen.reason}."
        )
    baked = sum(m.baked is not None for m in report.modules)
    if baked:
        notes.append(f"{baked} modules act through their base weight and became plain factors, not without loss.")
    notes += [f"Two files have different values for {key}; the first one's are kept." for key in clashes]
    if report.extras:
        notes.append(f"{len(report.extras)} keys that no format explains are kept as they are.")
    return notes


def _provenance(
    given: Sequence[Weighted],
    loras: list[SourceLora],
    settings: MergeSettings,
    report: MergeReport,
    base: Base | None,
) -> dict[str, object]:
    totals = report.totals
    return {
        "version": __version__,
        "job": "merge",
        "method": settings.method,
        "settings": asdict(settings),
        "loras": [
            {
                "name": lora.name,
                "sha256": entry.adapter.digest,
                "strength_model": lora.strength_model,
                "strength_clip": lora.strength_clip,
                **({"history": steps} if steps else {}),
            }
            for entry, lora in zip(given, loras, strict=True)
            for steps in [history(entry.adapter.metadata)]
        ],
        "error": totals["error"],
        "cosine": totals["cosine"],
        **({"base": base.label, "base_fingerprint": base.fingerprint} if base else {}),
    }
