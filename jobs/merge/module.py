"""One target of a merge: the adapters' task vectors there, by the method, as the module to write and its line."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from ...adapters import AdapterModule, lora_module
from ...bases.model import Base
from ...errors import AdapterError, GraftError
from ...kernels import lowrank, units
from ...kernels.lowrank import LowRank
from ...kernels.merge import METHODS
from ...kernels.threads import all_threads
from .architecture import check_shapes
from .build import finite, summed, with_rest
from .figures import figures
from .lines import MergedModule
from .settings import MergeSettings, Weighted
from .targets import Contribution, MergeTarget
from .task_vectors import BASE_HINT, TaskVector, task_vector_of

# Methods that lose nothing by themselves: only a number truncates them.
UNCUT = ("concat", "linear")
# Numbers in the dense changes of a target, all LoRAs together: 256 MB in float32. More is merged one target at a time.
HEAVY = 1 << 26


@dataclass
class Merger:
    """Merges one target after the other.

    used: the adapters that count, with their strengths.
    numbers: their numbers among the ``count`` LoRAs of the report.
    """

    used: Sequence[Weighted]
    numbers: list[int]
    count: int
    settings: MergeSettings
    base: Base | None
    dtype: torch.dtype
    device: torch.device | str

    def here(self, target: MergeTarget) -> bool:
        """Whether only the calling thread may do it: the base or another device takes part, or it is large."""
        base = self.base is not None and any(c.module.needs_base for c in target.contributions)
        return base or _heavy(target) or torch.device(self.device).type != "cpu"

    def __call__(self, target: MergeTarget) -> list[tuple[AdapterModule, MergedModule]]:
        """The merged module and its line; nothing when the strengths leave nothing of it.

        Raises:
            AdapterError: sizes differ, a module needs the base, or the result does not fit the dtype.
        """
        with all_threads(_heavy(target)):
            return self._merged(target)

    def _merged(self, target: MergeTarget) -> list[tuple[AdapterModule, MergedModule]]:
        strengths = {i: self.used[i].clip if target.text else self.used[i].model for i in target.sources}
        sources = [i for i in target.sources if strengths[i] != 0]
        if not sources:
            return []
        line = MergedModule(target.key, target.weight_name, *target.where)
        line.sources = [self.numbers[i] for i in sources]
        of = {i: target.of(i) for i in sources}
        if len(sources) == 1 and self.base is None and of[sources[0]][0].module.needs_base:
            return [self._as_it_is(target, of[sources[0]], strengths[sources[0]], line)]
        vectors = [task_vector_of(target, of[i], strengths[i], self.base) for i in sources]
        shapes = {v.index: v.shape for v in vectors if v.update is not None or v.dense is not None}
        if shapes:
            check_shapes(target.key, shapes, [entry.adapter for entry in self.used])
        first = next((v for v in vectors if v.index in shapes), vectors[0])
        like, line.shape = of[first.index][0].module, list(first.shape)
        if any(v.dense is not None for v in vectors) or not shapes:
            line.decision = "summed"
            module = summed(target.key, vectors, first.shape, like, self.dtype)
        else:
            module = self._factored(target, vectors, first.shape, like, line)
        return [(finite(module), line)]

    def _factored(
        self,
        target: MergeTarget,
        vectors: list[TaskVector],
        shape: tuple[int, ...],
        like: AdapterModule,
        line: MergedModule,
    ) -> AdapterModule:
        factored = [(v, v.update) for v in vectors if v.update is not None]
        updates = [LowRank(u.up.to(self.device), u.down.to(self.device)) for _, u in factored]
        alone = len(self.used) > 1 and len(updates) == 1
        result, clusters = self._combine(target, updates, line, alone)
        if clusters is not None:
            owners = [self.numbers[v.index] for v, _ in factored]
            pure = [{owners[i] for i in cluster} for cluster in clusters]
            line.clusters, line.mixed = len(pure), sum(len(found) > 1 for found in pure)
            line.pure = [sum(found == {i} for found in pure) for i in range(self.count)]
        line.ranks_in, line.rank_out = [u.rank for u in updates], result.rank
        baked = max(v.error for v, _ in factored)
        if baked > 1e-6:
            line.baked = baked
            line.reason += f"{'; ' if line.reason else ''}a {like.kind} module became factors with error {baked:.2g}"
        line.measure(figures(updates, result))
        result = LowRank(result.up.cpu(), result.down.cpu())
        same = like if like.key == target.key else None
        return with_rest(lora_module(target.key, result, shape=shape, dtype=self.dtype, like=same), vectors, target)

    def _combine(
        self, target: MergeTarget, updates: list[LowRank], line: MergedModule, alone: bool
    ) -> tuple[LowRank, list[list[int]] | None]:
        """The updates merged by the method, and its clusters. What only one LoRA has is kept, at most truncated."""
        options = self.settings.options()
        if "seed" in options:
            options["seed"] = zlib.crc32(f"{self.settings.seed} {target.label}".encode())
        rank, reason = _rank(updates, self.settings)
        if alone:
            (update,) = updates
            line.decision = "kept"
            if update.rank <= rank:
                return update, None
            line.decision, line.reason = "cut", f"only one LoRA has it; rank {update.rank} is cut to {rank}"
            return lowrank.truncate(update, rank=rank)[0], None
        try:
            merged = METHODS[self.settings.method].run(updates, rank, **options)
        except GraftError as error:
            raise error.at(key=target.key) from None
        line.decision, line.reason = self.settings.method, reason
        update = merged.update
        if update.rank > min(update.shape):  # more than the matrix can have
            update = lowrank.truncate(update)[0]
        return update, merged.clusters

    def _as_it_is(
        self, target: MergeTarget, contributions: list[Contribution], strength: float, line: MergedModule
    ) -> tuple[AdapterModule, MergedModule]:
        """A module that acts through its base weight and that only one LoRA has: kept as it is, if it can be scaled."""
        module = contributions[0].module
        try:
            if target.mixed:
                module.fail(f"A {module.kind} module cannot be cut into slices")
            kept = module if strength == 1 else module.scaled(strength)
        except AdapterError as error:
            raise error.at(hint=BASE_HINT) from None
        line.decision, line.reason = "kept", f"it stays a {module.kind} module"
        line.shape = list(module.shape) if module.shape else None
        line.ranks_in, line.rank_out = [module.rank] if module.rank else [], module.rank
        return kept.renamed(target.key), line


def _heavy(target: MergeTarget) -> bool:
    return sum(prod(c.module.shape or ()) for c in target.contributions) > HEAVY


def _rank(updates: list[LowRank], settings: MergeSettings) -> tuple[int, str]:
    """The rank to ask of the method for one module and, for "auto", why."""
    rank, ranks = settings.rank, [u.rank for u in updates]
    if not isinstance(rank, str):
        return min(rank, sum(ranks)), ""
    if rank == "sum" or settings.method in UNCUT:
        return sum(ranks), ""
    return (max(ranks), "") if rank == "max" else units.auto_rank(updates, settings.energy)
