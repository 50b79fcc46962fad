"""One place of a merge: the adapters' shares of it, by the method, as the module to write and its line."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod

import torch
from torch import Tensor

from ...adapters import Adapter, AdapterModule, lora_module
from ...adapters.full import Bias, Diff, Norm
from ...adapters.lora import PEFT, RESHAPE, Lora
from ...bases.model import Base
from ...errors import AdapterError, GraftError, SettingsError
from ...kernels import checks, lowrank, units
from ...kernels.finite import all_finite
from ...kernels.lowrank import LowRank
from ...kernels.merge import METHODS
from ...kernels.merge.registry import CHECKS
from ...kernels.stacked import stack
from ...kernels.threads import all_threads
from .report import MergedModule
from .targets import Contribution, MergeTarget, check_shapes
from .task_vectors import BASE_HINT, TaskVector, task_vector_of

Weighted = tuple[Adapter, float, float]
RANKS = ("auto", "max", "sum")
# Methods that lose nothing by themselves: only a number cuts them.
UNCUT = ("concat", "linear")
# Numbers in the dense changes of a place, all LoRAs together: 256 MB in float32. More is merged one place at a time.
HEAVY = 1 << 26
EXACT = 5e-3  # relative errors under this are measured again in float64


@dataclass(frozen=True)
class MergeSettings:
    """How to merge.

    method: a name in ``kernels.merge.METHODS``.
    rank: of the result: a number; "max", the largest of a module's sources; "sum", all their ranks together; "auto",
        for each module the smallest that keeps ``energy`` of the sum. concat and linear are cut by a number only.
    energy: share of ‖Σ ΔW‖² that rank "auto" keeps, in (0, 1].
    units, seed, density, parameter_reweighting, output_reweighting: options of the methods' functions in
        ``kernels.merge``; each method reads its own (``METHODS[name].options``) and no others.
    dtype: of the factors, "fp16", "bf16" or "fp32"; None for the widest that came in.

    Raises:
        SettingsError: unknown method, or a value out of range.
    """

    method: str = "lego"
    rank: int | str = "max"
    units: str = "canonical"
    seed: int = 0
    density: float = 0.5
    energy: float = 0.95
    parameter_reweighting: bool = True
    output_reweighting: bool = True
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"unknown method {self.method!r}", hint=f"Choose {', '.join(METHODS)}.")
        if isinstance(self.rank, str) and self.rank not in RANKS:
            raise SettingsError(f"unknown rank {self.rank!r}", hint=f"Choose a number, {', '.join(RANKS)}.")
        if not isinstance(self.rank, str) and self.rank < 1:
            raise SettingsError(f"the rank must be at least 1, got {self.rank}")
        if self.dtype not in (None, "fp16", "bf16", "fp32"):
            raise SettingsError(f"unknown dtype {self.dtype!r}", hint="Choose fp16, bf16 or fp32.")
        checks.share("energy", self.energy)
        for name in CHECKS.keys() & asdict(self).keys():
            CHECKS[name](getattr(self, name))

    def options(self) -> dict[str, object]:
        """Those that the method reads, as keyword arguments of its function."""
        return METHODS[self.method].own(asdict(self))

    def effective(self) -> dict[str, object]:
        """The settings that have a say in the result."""
        own = {"rank", "dtype", *self.options(), *(["energy"] if self.rank == "auto" else [])}
        return {name: value for name, value in asdict(self).items() if name in own}


@dataclass
class Merger:
    """Merges one place after the other.

    used: (adapter, strength on the model, strength on the text encoder) of those that count.
    numbers: their numbers among the ``count`` LoRAs of the report.
    """

    used: Sequence[Weighted]
    numbers: list[int]
    count: int
    settings: MergeSettings
    base: Base | None
    dtype: torch.dtype
    device: torch.device | str

    def here(self, place: MergeTarget) -> bool:
        """Whether only the calling thread may do it: the base or another device takes part, or it is large."""
        base = self.base is not None and any(part.module.needs_base for part in place.parts)
        return base or _heavy(place) or torch.device(self.device).type != "cpu"

    def __call__(self, place: MergeTarget) -> list[tuple[AdapterModule, MergedModule]]:
        """The merged module and its line; nothing when the strengths leave nothing of it.

        Raises:
            AdapterError: sizes differ, a module needs the base, or the result does not fit the dtype.
        """
        with all_threads(_heavy(place)):
            return self._merged(place)

    def _merged(self, place: MergeTarget) -> list[tuple[AdapterModule, MergedModule]]:
        strengths = {i: self.used[i][2 if place.text else 1] for i in place.sources}
        sources = [i for i in place.sources if strengths[i] != 0]
        if not sources:
            return []
        line = MergedModule(place.key, place.weight_slice.name if place.weight_slice else "", *place.where)
        line.sources = [self.numbers[i] for i in sources]
        parts = {i: [part for part in place.parts if part.index == i] for i in sources}
        if len(sources) == 1 and self.base is None and parts[sources[0]][0].module.needs_base:
            return [self._as_it_is(place, parts[sources[0]], strengths[sources[0]], line)]
        shares = [task_vector_of(place, parts[i], strengths[i], self.base) for i in sources]
        bodies = {s.index: s.shape for s in shares if s.update is not None or s.dense is not None}
        if bodies:
            check_shapes(place, bodies, [adapter for adapter, *_ in self.used])
        first = next((s for s in shares if s.index in bodies), shares[0])
        like, line.shape = parts[first.index][0].module, list(first.shape)
        if any(s.dense is not None for s in shares) or not bodies:
            line.decision = "summed"
            module = _summed(place.key, shares, first.shape, like, self.dtype)
        else:
            module = self._factored(place, shares, first.shape, like, line)
        return [(finite(module), line)]

    def _factored(
        self, place: MergeTarget, shares: list[TaskVector], shape, like: AdapterModule, line: MergedModule
    ) -> AdapterModule:
        carriers = [s for s in shares if s.update is not None]
        updates = [LowRank(*(t.to(self.device) for t in s.update)) for s in carriers]
        alone = len(self.used) > 1 and len(updates) == 1
        result, clusters = self._combine(place, updates, line, alone)
        if clusters is not None:
            owners = [self.numbers[s.index] for s in carriers]
            pure = [{owners[i] for i in cluster} for cluster in clusters]
            line.clusters, line.mixed = len(pure), sum(len(found) > 1 for found in pure)
            line.pure = [sum(found == {i} for found in pure) for i in range(self.count)]
        line.ranks_in, line.rank_out = [u.rank for u in updates], result.rank
        baked = max(s.error for s in carriers)
        if baked > 1e-6:
            line.baked = baked
            line.reason += f"{'; ' if line.reason else ''}a {like.kind} module became factors with error {baked:.2g}"
        for name, value in figures(updates, result).items():
            setattr(line, name, value)
        result = LowRank(result.up.cpu(), result.down.cpu())
        same = like if like.key == place.key else None
        return dressed(lora_module(place.key, result, shape=shape, dtype=self.dtype, like=same), shares, place)

    def _combine(
        self, place: MergeTarget, updates: list[LowRank], line: MergedModule, alone: bool
    ) -> tuple[LowRank, list[list[int]] | None]:
        """The updates merged by the method, and its clusters. What only one LoRA has is kept, cut where it must be."""
        options = self.settings.options()
        if "seed" in options:
            options["seed"] = zlib.crc32(f"{self.settings.seed} {place.label}".encode())
        rank, reason = _rank(updates, self.settings)
        if alone:
            (update,) = updates
            line.decision = "kept"
            if update.rank <= rank:
                return update, None
            line.decision, line.reason = "cut", f"only one LoRA has it; rank {update.rank} is cut to {rank}"
            return lowrank.recompress(update, rank=rank)[0], None
        try:
            merged = METHODS[self.settings.method].run(updates, rank, **options)
        except GraftError as error:
            raise type(error)(error.what, key=place.key, hint=error.hint) from None
        line.decision, line.reason = self.settings.method, reason
        update = merged.update
        if update.rank > min(update.shape):  # more than the matrix can have
            update = lowrank.recompress(update)[0]
        return update, merged.clusters

    def _as_it_is(
        self, place: MergeTarget, parts: list[Contribution], strength: float, line: MergedModule
    ) -> tuple[AdapterModule, MergedModule]:
        """A module that acts through its base weight and that only one LoRA has: kept as it is, if it can be scaled."""
        module = parts[0].module
        try:
            if place.mixed:
                module.fail(f"A {module.kind} module cannot be cut into slices")
            kept = module if strength == 1 else module.scaled(strength)
        except AdapterError as error:
            raise AdapterError(error.what, file=error.file, key=error.key, hint=BASE_HINT) from None
        line.decision, line.reason = "kept", f"it stays a {module.kind} module"
        line.shape = list(module.shape) if module.shape else None
        line.ranks_in, line.rank_out = [module.rank] if module.rank else [], module.rank
        return kept.renamed(place.key), line


def _heavy(place: MergeTarget) -> bool:
    return sum(prod(part.module.shape or ()) for part in place.parts) > HEAVY


def _rank(updates: list[LowRank], settings: MergeSettings) -> tuple[int, str]:
    """The rank to ask of the method for one module and, for "auto", why."""
    total = sum(u.rank for u in updates)
    if settings.rank == "sum" or (isinstance(settings.rank, str) and settings.method in UNCUT):
        return total, ""
    if settings.rank == "max":
        return max(u.rank for u in updates), ""
    if settings.rank == "auto":
        return units.auto_rank(updates, settings.energy)
    return min(settings.rank, total), ""


def figures(updates: Sequence[LowRank], merged: LowRank) -> dict[str, float]:
    """error, cosine, sum_norm, norm and source_norm of a merged update against its sources (see MergedModule).

    Everything from the Gram matrices of the stacked factors: in float32, and again in float64 when the error is so
    small that float32 would be guessing. The factors side by side are the sum itself.
    """
    whole = lowrank.concatenate(list(updates)) if merged.rank == sum(u.rank for u in updates) else None
    if whole and torch.equal(merged.up, whole.up) and torch.equal(merged.down, whole.down):
        found = _figures(updates, LowRank(merged.up[:, :0], merged.down[:0]), torch.float32)
        return {**found, "error": 0.0, "cosine": 1.0 if found["sum_norm"] > 0 else 0.0, "norm": found["sum_norm"]}
    found = _figures(updates, merged, torch.float32)
    return found if found["error"] > EXACT else _figures(updates, merged, torch.float64)


def _figures(updates: Sequence[LowRank], merged: LowRank, dtype: torch.dtype) -> dict[str, float]:
    stacked = stack([*updates, merged], dtype)
    owner = torch.eye(len(updates) + 1, dtype=torch.float64)
    owner = owner.repeat_interleave(torch.tensor([u.rank for u in (*updates, merged)]), 0)
    inners = owner.T @ (stacked.left * stacked.right).cpu() @ owner  # of all with each other, the merged one last
    whole, out = max(float(inners[:-1, :-1].sum()), 0.0), max(float(inners[-1, -1]), 0.0)
    inner = float(inners[:-1, -1].sum())
    each = inners.diagonal()[:-1].clamp_min(0).tolist()
    error = max(whole + out - 2 * inner, 0.0) ** 0.5
    size = (whole * out) ** 0.5
    return {
        "error": error / whole**0.5 if whole > 0 else 0.0,
        "cosine": inner / size if size > 0 else 0.0,
        "sum_norm": whole**0.5,
        "norm": out**0.5,
        "source_norm": (sum(each) / len(each)) ** 0.5,
    }


def _summed(key: str, shares: Sequence[TaskVector], shape, like: AdapterModule, dtype: torch.dtype) -> AdapterModule:
    """Dense changes and biases added up, as ``diff``, ``norm`` or ``bias``."""
    bias = _bias(shares)
    dense = [
        s.dense.reshape(shape) if s.dense is not None else s.update.dense().reshape(shape)
        for s in shares
        if s.dense is not None or s.update is not None
    ]
    norm = isinstance(like, Norm) or (isinstance(like, Bias) and ".b_norm" in like.tensors)
    biases = {} if bias is None else {".b_norm" if norm else ".diff_b": bias.to(dtype)}
    if not dense:
        return Bias(key, biases, file=like.file)
    kind = Norm if norm else Diff
    return kind(key, {kind.suffixes[0]: torch.stack(dense).sum(0).to(dtype).contiguous(), **biases}, file=like.file)


def dressed(module: AdapterModule, shares: Sequence[TaskVector], place: MergeTarget) -> AdapterModule:
    """The merged factors with the bias change and the padded shape that the sources brought."""
    bias = _bias(shares)
    tensors = dict(module.tensors)
    if bias is not None:
        # beside PEFT's factors the bias of B, which PEFT and diffusers read; both add it at the factors' scale
        peft = isinstance(module, Lora) and module.spelling == PEFT and module.scale() == 1
        tensors[".lora_B.bias" if peft else ".diff_b"] = bias.to(tensors[module.spelling[0]].dtype)
    padded = [p.module.tensors[RESHAPE] for p in place.parts if RESHAPE in p.module.tensors]
    if padded:
        tensors[RESHAPE] = padded[0]
    return replace(module, tensors=tensors)


def _bias(shares: Sequence[TaskVector]) -> Tensor | None:
    found = [s.bias for s in shares if s.bias is not None]
    return torch.stack(found).sum(0) if found else None


def finite(module: AdapterModule) -> AdapterModule:
    for suffix, tensor in module.tensors.items():
        if tensor.dtype.is_floating_point and not all_finite(tensor):
            raise AdapterError(
                f"The merged values do not fit {str(tensor.dtype).removeprefix('torch.')}",
                key=module.key + suffix,
                hint="Write the result as fp32 or bf16, or choose smaller strengths.",
            )
    return module
