"""One module from its source weight to its target weight, by one or several methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...adapters import AdapterModule, lora_module
from ...adapters.dora import Dora
from ...kernels import lowrank
from ...kernels.lowrank import LowRank
from ...kernels.transfer import METHODS
from ...kernels.transfer.lora_x import in_subspace_share
from ...names import describe
from .pairs import Pair, Pairs
from .plan import Step, parts, shape_of
from .report import ModuleReport

# Factors this close to an exact smaller rank (relative Frobenius error) lose the superfluous part.
SPARE = 1e-6
# Share of an update's energy inside its base's subspaces from which it is a LoRA-X adapter (an ordinary LoRA has
# about (k/m)(k/n)), and from which the subspace of a whole fused weight is worth trying.
INSIDE, HINT = 0.99, 0.3
MULTIPLICATIVE = ("oft", "boft", "ia3", "glora")


@dataclass
class Moved:
    """What became of one module: by method, the module to write (None: dropped) and its report.

    inside: energy of ΔW inside the source's subspace; energy: ‖ΔW‖² (both None when not measured).
    """

    results: dict[str, tuple[AdapterModule | None, ModuleReport]]
    inside: float | None = None
    energy: float | None = None


def move(step: Step, methods: Sequence[str], pairs: Pairs, *, threshold: float, rank: int | None) -> Moved:
    """Carry one planned module over by each of the methods.

    Args:
        threshold: mean Φ under which a subspace method leaves its module to plain copying.
        rank: largest rank of a module to write; None for no limit.
    """
    moved = _carry(step, methods, pairs, threshold, rank)
    if rank is not None and step.target is not None:
        shape = shape_of(pairs.target, step.target)
        moved.results = {m: _cut(kept, line, rank, shape) for m, (kept, line) in moved.results.items()}
    return moved


def _carry(step: Step, methods: Sequence[str], pairs: Pairs, threshold: float, rank: int | None) -> Moved:
    report = _blank(step)
    if step.source is None:
        report.decision, report.reason, report.kept_energy = "kept", step.reason, 1.0
        return Moved({m: (step.module, report) for m in methods})
    if step.target is None:
        report.decision, report.reason, report.kept_energy, report.norm_ratio = "dropped", step.reason, 0.0, 0.0
        return Moved({m: (None, report) for m in methods})
    old, new = shape_of(pairs.source, step.source), shape_of(pairs.target, step.target)
    if pairs.same(step.source, step.target):
        report.reason, report.drift = "the weight is the same in both bases", 0.0
        return Moved({m: _copied(step, report, old, new, pairs) for m in methods})
    if len(old) < 2 or len(new) < 2 or _flat(step.module):
        report.reason = "vectors have no subspace"
        return Moved({m: _copied(step, report, old, new, pairs) for m in methods})
    rebuilt = [m for m in methods if METHODS[m].needs_subspaces]
    if not rebuilt:
        if pairs.empty(step.target):
            return _pruned(report, methods)
        report.drift = pairs.drift(step.source, step.target)
    moved = Moved({m: _copied(step, report, old, new, pairs) for m in methods if m not in rebuilt})
    if rebuilt:
        _rebuild(moved, step, report, rebuilt, pairs, new, threshold, rank)
    return moved


def _rebuild(moved: Moved, step: Step, report: ModuleReport, methods, pairs: Pairs, shape, threshold, rank) -> None:
    module = step.module
    weight = pairs.weight(pairs.source, step.source) if module.needs_base else None
    update = LowRank(*(t.to(pairs.device) for t in module.low_rank(weight)))
    found, updates, share = _slices(update, step, pairs)
    if not any(bool(pair.target.values.any()) for pair in found):
        moved.results = _pruned(report, [*moved.results, *methods]).results
        return
    seen = {**likeness(found), "source_norm": lowrank.norm(update)}
    report = replace(report, **seen, rank_in=update.rank)
    moved.energy = report.source_norm**2
    moved.inside = share * moved.energy
    alike = [x for x in (report.phi_left, report.phi_right) if x is not None]
    resized = any(u.shape != pair.target.shape for u, pair in zip(updates, found, strict=True))
    for method in methods:
        if alike and not resized and sum(alike) / len(alike) < threshold:
            low = replace(report, reason=f"Φ {sum(alike) / len(alike):.2f} is under the threshold {threshold:g}")
            moved.results[method] = _copied(step, low, shape, shape, pairs)
        elif resized and method != "lora-x":
            gone = replace(
                report,
                decision="dropped",
                kept_energy=0.0,
                norm_ratio=0.0,
                reason=f"{method} cannot change sizes; lora-x can, experimentally",
            )
            moved.results[method] = (None, gone)
        else:
            moved.results[method] = _built(step, report, method, update, updates, found, shape, rank, resized)
    for method, (kept, line) in list(moved.results.items()):
        # The copy's line gets the similarity too, so that one table shows both.
        if line.decision == "copy" and line.phi_left is None and line.phi_right is None:
            moved.results[method] = (kept, replace(line, **seen))


def _slices(update: LowRank, step: Step, pairs: Pairs) -> tuple[list[Pair], list[LowRank], float]:
    """Pairs of subspaces, the update's slice for each, and the share of its energy inside the source's subspaces.

    A fused weight is taken slice by slice, unless the adapter was trained inside the subspace of the whole.
    """
    ours, theirs = parts(pairs.source, step.source), parts(pairs.target, step.target)
    if len(ours) != len(theirs) or len(ours) == 1:
        found = [pairs.pair(step.source, step.target)]
        return found, [update], in_subspace_share(update, found[0].source)
    found = [pairs.pair(s, t) for s, t in zip(ours, theirs, strict=True)]
    updates = [lowrank.take_rows(update, *weight_slice.rows) for weight_slice in ours]
    total = lowrank.norm(update) ** 2
    inside = sum(
        in_subspace_share(u, pair.source) * lowrank.norm(u) ** 2 for u, pair in zip(updates, found, strict=True)
    )
    share = inside / total if total > 0 else 0.0
    if share > HINT:
        whole = pairs.pair(step.source, step.target)
        if (of_whole := in_subspace_share(update, whole.source)) >= max(share, INSIDE):
            return [whole], [update], of_whole
    return found, updates, share


def _pruned(report: ModuleReport, methods: Sequence[str]) -> Moved:
    gone = replace(
        report,
        matched=None,
        decision="dropped",
        kept_energy=0.0,
        norm_ratio=0.0,
        reason="the target's weight is all zero: this block was pruned",
    )
    return Moved({m: (None, gone) for m in methods})


def _built(
    step, report, method, whole, updates, found: Sequence[Pair], shape, rank, resized
) -> tuple[AdapterModule, ModuleReport]:
    run = METHODS[method].run
    made = [run(u, pair.source, pair.target) for u, pair in zip(updates, found, strict=True)]
    result, error = (made[0], 0.0) if len(made) == 1 else lowrank.truncate(lowrank.stack_rows(made), tol=SPARE)
    if rank is not None and result.rank > rank:
        result, error = lowrank.truncate(result, rank=rank)
    before, after = lowrank.norm(whole), lowrank.norm(result)
    ratio = after / before if before > 0 else 1.0
    line = replace(
        report,
        kept_energy=ratio**2,
        norm_ratio=ratio,
        cosine_with_copy=None if resized else lowrank.cosine(whole, result),
        rank_out=result.rank,
        truncation_error=error if error > SPARE else 0.0,
        decision=method,
        reason="coordinates copied between singular bases of different size: experimental" if resized else "",
    )
    result = LowRank(result.up.cpu(), result.down.cpu())
    return _with_bias(lora_module(step.key, result, shape=shape, like=step.module), step.module), line


def _copied(step: Step, report: ModuleReport, old, new, pairs: Pairs) -> tuple[AdapterModule | None, ModuleReport]:
    """The module as it is, under its new key; DoRA magnitudes follow the new weight's norms."""
    module = step.module
    if not (module.fits(new) if module.shape is not None else tuple(old) == tuple(new)):
        size = "×".join(map(str, old)) + " against " + "×".join(map(str, new))
        return None, replace(
            report,
            decision="dropped",
            kept_energy=0.0,
            norm_ratio=0.0,
            reason=f"a copy needs weights of one size ({size})",
        )
    line = replace(report, decision="copy", rank_in=module.rank, rank_out=module.rank)
    if isinstance(module, Dora) and report.drift != 0:
        theirs = pairs.weight(pairs.target, step.target).cpu()
        moved = module.reanchored(pairs.weight(pairs.source, step.source).cpu(), theirs)
        return moved.renamed(step.key), replace(line, reason="magnitudes rescaled to the target's norms")
    if module.kind in MULTIPLICATIVE and report.drift != 0:
        return module.renamed(step.key), replace(line, reason="the same factors act on the target's weight")
    kept = replace(line, kept_energy=1.0, norm_ratio=1.0, cosine_with_copy=1.0, truncation_error=0.0)
    return module.renamed(step.key), kept


def _cut(
    module: AdapterModule | None, line: ModuleReport, rank: int, shape
) -> tuple[AdapterModule | None, ModuleReport]:
    """A copied module of a larger rank as plain factors of this rank; what needs its base weight stays as it is."""
    if module is None or line.decision != "copy" or module.needs_base or (module.rank or 0) <= rank:
        return module, line
    whole = module.low_rank()
    result, error = lowrank.truncate(whole, rank=rank)
    cosine = lowrank.cosine(whole, result)
    line = replace(
        line,
        kept_energy=cosine**2,
        norm_ratio=cosine,
        cosine_with_copy=cosine,
        rank_out=result.rank,
        truncation_error=error,
    )
    return _with_bias(lora_module(module.key, result, shape=shape, like=module), module), line


def likeness(found: Sequence[Pair]) -> dict:
    """Figures of a module, the mean over its slices."""
    each = [pair.likeness() for pair in found]

    def mean(name):
        values = [e[name] for e in each if e[name] is not None]
        return sum(values) / len(values) if values else None

    names = ("phi_left", "phi_right", "phi_left_corrected", "phi_right_corrected")
    drifts = [d for d in (pair.drift() for pair in found) if d is not None]
    drift = sum(drifts) / len(drifts) if drifts else None
    return {"k": each[0]["k"], "drift": drift, **{name: mean(name) for name in names}}


def _blank(step: Step) -> ModuleReport:
    weight_slice = step.source
    block, role = describe(weight_slice.name) if weight_slice else ("", "")
    return ModuleReport(
        name=weight_slice.name if weight_slice else step.key,
        rows=weight_slice.rows if weight_slice else None,
        key=step.module.key,
        block=block,
        role=role,
        kind=step.module.kind,
        matched=step.target.name if step.target else None,
        shape=list(step.module.shape) if step.module.shape else None,
        source_norm=_norm(step.module) if weight_slice else None,
        rank_in=step.module.rank,
    )


def _norm(module: AdapterModule) -> float | None:
    """‖ΔW‖; None for what changes vectors or means nothing without its base weight."""
    if module.needs_base or _flat(module):
        return None
    return float(module.delta().norm()) if module.kind == "diff" else lowrank.norm(module.low_rank())


def _flat(module: AdapterModule) -> bool:
    """Whether the module changes vectors (norms, biases) or sets values outright: nothing to project."""
    return module.kind in ("bias", "norm", "set") or (module.shape is not None and len(module.shape) < 2)


def _with_bias(built: AdapterModule, original: AdapterModule) -> AdapterModule:
    """The rebuilt module with what the original adds to the layer's bias, if there are as many rows."""
    extra = original.bias()
    rows = built.tensors[built.spelling[0]].shape[0]
    if extra is None or extra.numel() != rows:
        return built
    return replace(built, tensors={**built.tensors, ".diff_b": extra.to(_dtype(built))})


def _dtype(module: AdapterModule):
    return next(t.dtype for t in module.tensors.values() if t.ndim > 1)
