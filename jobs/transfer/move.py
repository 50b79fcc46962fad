"""One module from its source weight to its target weight, by one or several methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ...adapters import AdapterModule, lora_module
from ...adapters.dora import Dora
from ...adapters.lora import Lora
from ...kernels import lowrank
from ...kernels.lowrank import LowRank
from ...kernels.transfer import METHODS
from ...kernels.transfer.lora_x import in_subspace_share
from ...names import WeightSlice, describe
from ..text import mean_of, times
from .pairs import Pair, Pairs
from .plan import Step
from .report import DECISION_DROPPED, DECISION_LEFT_OUT, ModuleReport
from .slices import shape_of, slice_pairs

# Factors this close to an exact smaller rank (relative Frobenius error) lose the superfluous part.
SPARE = 1e-6
# Share of an update's energy inside its base's subspaces from which it is a LoRA-X adapter (an ordinary LoRA has
# about (k/m)(k/n)), and from which the subspace of a whole fused weight is worth trying.
INSIDE, HINT = 0.99, 0.3
MULTIPLICATIVE = ("oft", "boft", "ia3", "glora")

# The module to write (None: dropped) and its line of the report.
Carried = tuple[AdapterModule | None, ModuleReport]


@dataclass
class Moved:
    """What became of one module, by method.

    inside: energy of ΔW inside the source's subspace; energy: ‖ΔW‖² (both None when not measured).
    phi: mean of Φ_l and Φ_r, which a threshold is held against; None where no two subspaces are compared.
    """

    results: dict[str, Carried]
    inside: float | None = None
    energy: float | None = None
    phi: float | None = None

    def filtered(self, method: str, threshold: float, *, leave_out: bool) -> Carried:
        """The method's result, or what a module under the threshold becomes: nothing, or its copy."""
        module, line = self.results[method]
        if self.phi is None or self.phi >= threshold or line.decision == DECISION_DROPPED:
            return module, line
        reason = f"Φ {self.phi:.2f} is under the threshold {threshold:g}"
        if leave_out:
            return None, replace(_dropped(line, reason)[1], decision=DECISION_LEFT_OUT, cosine_with_copy=None)
        if not METHODS[method].needs_subspaces:
            return module, line
        copied, line = self.results["copy"]
        return copied, replace(line, reason="; ".join(filter(None, (reason, line.reason))))


@dataclass(frozen=True)
class _Match:
    """A module on its way from a weight of the source to one of the target, under a new key."""

    module: AdapterModule
    key: str
    source: WeightSlice
    target: WeightSlice
    pairs: Pairs

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the weight in the source and in the target."""
        return shape_of(self.pairs.source, self.source), shape_of(self.pairs.target, self.target)

    @property
    def base_weight(self) -> torch.Tensor | None:
        """The source's weight where the module means nothing without it."""
        return self.pairs.weight(self.pairs.source, self.source) if self.module.needs_base else None


def move(step: Step, methods: Sequence[str], pairs: Pairs, *, rank: int | None, measured: bool = False) -> Moved:
    """Carry one planned module over by each of the methods.

    Args:
        measured: compare the subspaces even where none of the methods looks at them.
        rank: largest rank of a module to write; None for no limit.
    """
    line = _blank(step)
    if step.source is None:
        line.decision, line.reason, line.kept_energy = "kept", step.reason, 1.0
        return Moved({m: (step.module, line) for m in methods})
    if step.target is None:
        return Moved({m: _dropped(line, step.reason) for m in methods})
    match = _Match(step.module, step.key, step.source, step.target, pairs)
    if pairs.same(match.source, match.target):
        line.reason, line.drift = "the weight is the same in both bases", 0.0
        moved = Moved({m: _copied(match, line) for m in methods})
    elif not has_subspaces(step, pairs):
        line.reason = "vectors have no subspace"
        moved = Moved({m: _copied(match, line) for m in methods})
    else:
        line.rounded = pairs.rounded(match.source, match.target)
        moved = _carried(match, line, methods, rank, measured)
    if rank is not None:
        moved.results = {m: _truncated(carried, rank, match.shapes[1]) for m, carried in moved.results.items()}
    return moved


def has_subspaces(step: Step, pairs: Pairs) -> bool:
    """Whether methods that need subspaces look at those of the step's weights, unless both weights are the same."""
    if step.source is None or step.target is None or _flat(step.module):
        return False
    return bool(slice_pairs(pairs.source, pairs.target, step.source, step.target))


def _carried(match: _Match, line: ModuleReport, methods: Sequence[str], rank: int | None, measured: bool) -> Moved:
    pairs, rebuilding = match.pairs, [m for m in methods if METHODS[m].needs_subspaces]
    if not (rebuilding or measured):
        if pairs.empty(match.target):
            return _pruned(line, methods)
        line.drift = pairs.drift(match.source, match.target)
    moved = Moved({m: _copied(match, line) for m in methods if m not in rebuilding})
    if rebuilding or measured:
        _rebuild(moved, match, line, rebuilding, rank)
    return moved


def _rebuild(moved: Moved, match: _Match, line: ModuleReport, methods: Sequence[str], rank: int | None) -> None:
    """Add the results of the methods that need subspaces; a copy beside them gets the same similarity."""
    update = LowRank(*(t.to(match.pairs.device) for t in match.module.low_rank(match.base_weight)))
    sliced, share = _slices(update, match)
    found = [pair for _, pair in sliced]
    if not any(bool(pair.target.values.any()) for pair in found):
        moved.results = _pruned(line, [*moved.results, *methods]).results
        return
    norm = lowrank.norm(update)
    figures = {**likeness(found), "source_norm": norm}
    line = replace(line, **figures, rank_in=update.rank)
    moved.energy, moved.inside = norm**2, share * norm**2
    other_size = any(part.shape != pair.target.shape for part, pair in sliced)
    moved.phi = None if other_size else mean_of([line.phi_left, line.phi_right])
    for method in methods:
        if other_size and method != "lora-x":
            moved.results[method] = _dropped(line, f"{method} cannot change sizes; lora-x can, experimentally")
        else:
            moved.results[method] = _built(match, line, method, update, sliced, rank)
    for method, (module, copied) in list(moved.results.items()):
        if copied.decision == "copy" and copied.phi_left is None and copied.phi_right is None:
            moved.results[method] = (module, replace(copied, **figures))


def _slices(update: LowRank, match: _Match) -> tuple[list[tuple[LowRank, Pair]], float]:
    """The update's slices with their pairs of subspaces, and the share of its energy inside the source's subspaces.

    A fused weight is taken slice by slice, unless the adapter was trained inside the subspace of the whole.
    """
    found = match.pairs.by_slice(match.source, match.target)
    if len(found) == 1:
        pair = found[0][1]
        return [(update, pair)], in_subspace_share(update, pair.source)
    sliced = [(lowrank.take_rows(update, *mine.rows), pair) for mine, pair in found if mine.rows is not None]
    total = lowrank.norm(update) ** 2
    inside = sum(in_subspace_share(part, pair.source) * lowrank.norm(part) ** 2 for part, pair in sliced)
    share = inside / total if total > 0 else 0.0
    if share > HINT:
        whole = match.pairs.pair(match.source, match.target)
        if (of_whole := in_subspace_share(update, whole.source)) >= max(share, INSIDE):
            return [(update, whole)], of_whole
    return sliced, share


def _dropped(line: ModuleReport, reason: str) -> Carried:
    return None, replace(line, decision=DECISION_DROPPED, kept_energy=0.0, norm_ratio=0.0, reason=reason)


def _pruned(line: ModuleReport, methods: Sequence[str]) -> Moved:
    dropped = _dropped(replace(line, matched=None), "the target's weight is all zero: this block was pruned")
    return Moved({m: dropped for m in methods})


def _built(
    match: _Match,
    line: ModuleReport,
    method: str,
    whole: LowRank,
    sliced: Sequence[tuple[LowRank, Pair]],
    rank: int | None,
) -> Carried:
    """The module as a method makes it, its slices fused again."""
    made = [METHODS[method].run(part, pair.source, pair.target) for part, pair in sliced]
    result, error = (made[0], 0.0) if len(made) == 1 else lowrank.truncate(lowrank.stack_rows(made), tol=SPARE)
    if rank is not None and result.rank > rank:
        result, error = lowrank.truncate(result, rank=rank)
    before, after = lowrank.norm(whole), lowrank.norm(result)
    ratio = after / before if before > 0 else 1.0
    other_size = any(part.shape != pair.target.shape for part, pair in sliced)
    line = replace(
        line,
        kept_energy=ratio**2,
        norm_ratio=ratio,
        cosine_with_copy=None if other_size else lowrank.cosine(whole, result),
        rank_out=result.rank,
        truncation_error=error if error > SPARE else 0.0,
        decision=method,
        reason="coordinates copied between singular bases of different size: experimental" if other_size else "",
    )
    result = LowRank(result.up.cpu(), result.down.cpu())
    return _with_bias(lora_module(match.key, result, shape=match.shapes[1], like=match.module), match.module), line


def _copied(match: _Match, line: ModuleReport) -> Carried:
    """The module as it is, under its new key; DoRA magnitudes follow the new weight's norms."""
    module, (old, new) = match.module, match.shapes
    if not (module.fits(new) if module.shape is not None else old == new):
        return _dropped(line, f"a copy needs weights of one size ({times(old)} against {times(new)})")
    line = replace(line, decision="copy", rank_in=module.rank, rank_out=module.rank)
    if isinstance(module, Dora) and line.drift != 0:
        pairs = match.pairs
        theirs = pairs.weight(pairs.target, match.target).cpu()
        moved = module.reanchored(pairs.weight(pairs.source, match.source).cpu(), theirs)
        return moved.renamed(match.key), replace(line, reason="magnitudes rescaled to the target's norms")
    if module.kind in MULTIPLICATIVE and line.drift != 0:
        return module.renamed(match.key), replace(line, reason="the same factors act on the target's weight")
    line = replace(line, kept_energy=1.0, norm_ratio=1.0, cosine_with_copy=1.0, truncation_error=0.0)
    return module.renamed(match.key), line


def _truncated(carried: Carried, rank: int, shape: tuple[int, ...]) -> Carried:
    """A copied module of a larger rank as plain factors of this rank; what needs its base weight stays as it is."""
    module, line = carried
    if module is None or line.decision != "copy" or module.needs_base or (module.rank or 0) <= rank:
        return carried
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


def likeness(found: Sequence[Pair]) -> dict[str, float | int | None]:
    """Figures of a module, the mean over its slices."""
    each = [pair.likeness() for pair in found]
    names = ("phi_left", "phi_right", "phi_left_corrected", "phi_right_corrected")
    means = {name: mean_of([figures[name] for figures in each]) for name in names}
    return {"k": each[0]["k"], "drift": mean_of([pair.drift() for pair in found]), **means}


def _blank(step: Step) -> ModuleReport:
    weight_slice = step.source
    block, role = describe(weight_slice.name) if weight_slice else ("", "")
    if step.fills and step.target is not None:
        block = f"{describe(step.target.name)[0]} (filled)"
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
        fills=step.fills,
    )


def _norm(module: AdapterModule) -> float | None:
    """‖ΔW‖; None for what changes vectors or means nothing without its base weight."""
    if module.needs_base or _flat(module):
        return None
    return float(module.delta().norm()) if module.kind == "diff" else lowrank.norm(module.low_rank())


def _flat(module: AdapterModule) -> bool:
    """Whether the module changes vectors (norms, biases) or sets values outright: nothing to project."""
    return module.kind in ("bias", "norm", "set") or (module.shape is not None and len(module.shape) < 2)


def _with_bias(built: Lora, original: AdapterModule) -> Lora:
    """The rebuilt module with what the original adds to the layer's bias, if there are as many rows."""
    extra, up = original.bias(), built.tensors[built.spelling[0]]
    if extra is None or extra.numel() != up.shape[0]:
        return built
    return replace(built, tensors={**built.tensors, ".diff_b": extra.to(up.dtype)})
