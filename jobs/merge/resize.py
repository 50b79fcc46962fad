"""One LoRA at smaller ranks, chosen module by module from its singular values."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

import torch

from ... import choices
from ...adapters import Adapter, AdapterModule, lora_module
from ...adapters.alphas import with_one_alpha
from ...bases.model import Base
from ...errors import GraftError, SettingsError
from ...kernels.merge.resize import choose_rank
from ...kernels.merge.resize import resize as resize_update
from ...kernels.precision import full_precision
from ...kernels.threads import one_thread
from ...version import __version__
from ..check import check_fits
from ..memory import memory_told
from ..progress import Progress, silent
from ..whole_weights import joined
from .architecture import names_for
from .build import finite, with_rest
from .figures import figures
from .files import DTYPES, merged_metadata, widest
from .lines import MergedModule, SourceLora
from .merge import MergeResult
from .report import MergeReport
from .targets import MergeTarget, find_targets
from .task_vectors import task_vector_of


@dataclass(frozen=True)
class ResizeSettings:
    """How to choose the ranks.

    rule, amount: one of ``choices.Resize.rules`` with its number: ("rank", 8), ("ratio", 10), ("energy", .9),
        ("frobenius", .9), ("cumulative", .9).
    most: largest rank whatever the rule says; None for no limit.
    dtype: of the factors, "fp16", "bf16" or "fp32"; None for the LoRA's own.

    Raises:
        SettingsError: unknown rule, or a number out of its range.
    """

    rule: str = choices.Resize.rule
    amount: float = choices.Resize.amount
    most: int | None = choices.Resize.max_rank
    dtype: str | None = choices.File.dtype

    def __post_init__(self) -> None:
        choose_rank(torch.ones(1), self.rule, self.amount)
        if self.rule == "rank" and self.amount != int(self.amount):
            raise SettingsError(f"the rank must be a whole number, got {self.amount:g}")
        if self.most is not None and self.most < 1:
            raise SettingsError(f"the largest rank must be at least 1, got {self.most}")
        if self.dtype not in DTYPES:
            raise SettingsError(f"unknown dtype {self.dtype!r}", hint=f"Choose {', '.join(choices.File.dtypes)}.")


@full_precision()
@one_thread()
@memory_told("Work on the CPU, or where there is more memory.")
def resize(
    adapter: Adapter,
    settings: ResizeSettings | None = None,
    *,
    base: Base | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """The best LoRA at the ranks that a rule chooses, in the same layout.

    Modules that have no more than the rank already, and those that are no products of factors (norms, biases, whole
    differences; DoRA and the like without a base), stay as they are.

    Raises:
        AdapterError: the adapter does not belong to the base; values do not fit the dtype.
    """
    settings, tell = settings or ResizeSettings(), progress or silent
    started = time.perf_counter()
    dtype = DTYPES[settings.dtype] or widest([adapter])
    names = names_for([adapter], base)
    targets = find_targets([adapter], names, from_base=base is not None)
    modules, lines = {}, []
    for done, target in enumerate(targets):
        tell(done, len(targets), target.label)
        module, line = _resized(target, settings, base, dtype)
        modules[module.key] = module
        lines.append(line)
    tell(len(targets), len(targets), "")
    modules = with_one_alpha(modules)
    check_fits(modules.values(), names, base.weights() if base else None)
    name = adapter.file.replace("\\", "/").rsplit("/", 1)[-1] if adapter.file else "LoRA"
    report = MergeReport(
        job="resize",
        method=settings.rule,
        display=f"an SVD cut by {settings.rule} {settings.amount:g}",
        paper="Eckart and Young (1936)",
        loras=[SourceLora(name, modules=len(adapter.modules))],
        settings=asdict(settings),
        modules=lines,
        extras=[] if adapter.peft else list(adapter.extras),
    )
    _, report.notes = joined([adapter], ())
    kept = sum(line.decision == "kept" for line in lines)
    if kept:
        report.notes.append(f"{kept} modules are within the rule already, or no products of factors: unchanged.")
    report.elapsed = time.perf_counter() - started
    metadata = merged_metadata([adapter], report.totals)
    result = replace(adapter.with_modules(modules), metadata=metadata, file=None, digest="", aliases={})
    provenance = {
        "version": __version__,
        "job": "resize",
        "settings": asdict(settings),
        "lora": name,
        "adapter_sha256": adapter.digest,
        "error": report.totals["error"],
    }
    return MergeResult(result, report, provenance)


def _resized(
    target: MergeTarget, settings: ResizeSettings, base: Base | None, dtype: torch.dtype
) -> tuple[AdapterModule, MergedModule]:
    module = target.contributions[0].module
    line = MergedModule(target.key, target.weight_name, *target.where, sources=[0], decision="kept")
    line.shape, line.ranks_in, line.rank_out = list(module.shape or ()) or None, [module.rank or 0], module.rank
    if module.needs_base and base is None:
        line.reason = f"a {module.kind} module without its base"
        return _cast(module, settings), line
    vector = task_vector_of(target, target.contributions, 1.0, base)
    if vector.update is None:
        line.ranks_in, line.reason = [], "no product of factors"
        return _cast(module, settings), line
    try:
        found = resize_update(vector.update, settings.rule, settings.amount).update
        if settings.most is not None and found.rank > settings.most:
            found = resize_update(vector.update, "rank", settings.most).update
    except GraftError as error:
        raise error.at(key=target.key) from None
    line.ranks_in = [vector.update.rank]
    line.measure(figures([vector.update], found))
    if found.rank >= (module.rank or 0) and module.kind == "lora" and not target.mixed:
        line.rank_out, line.error, line.cosine, line.norm = module.rank, 0.0, 1.0, line.sum_norm
        return _cast(module, settings), line
    line.rank_out, line.decision = found.rank, settings.rule
    made = lora_module(target.key, found, shape=vector.shape, dtype=dtype, like=module)
    return finite(with_rest(made, [vector], target)), line


def _cast(module: AdapterModule, settings: ResizeSettings) -> AdapterModule:
    """The module as it is, in the dtype that was asked for."""
    dtype = DTYPES[settings.dtype]
    if dtype is None:
        return module
    tensors = {s: t.to(dtype) if t.dtype.is_floating_point and t.ndim else t for s, t in module.tensors.items()}
    return finite(replace(module, tensors=tensors))
