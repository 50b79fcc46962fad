"""One weight in two bases: their leading subspaces, how alike these are, and how far the weights lie apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from ...bases.model import Base, load_weight_slice
from ...io.rounding import DTYPES, rounding
from ...kernels.similarity import chance, corrected, phi_of
from ...kernels.spectral import Subspace, SubspaceSize, flatten, spectrum, subspace
from ...names import WeightSlice
from ..cache import SubspaceCache, subspace_key
from .slices import shape_of, slice_pairs

Figure = TypeVar("Figure")
SLACK = 1.2  # on what a storage usually rounds


@dataclass(frozen=True)
class Pair:
    """The subspaces of one weight (or slice) in the source and in the target, on the computing device."""

    source: Subspace
    target: Subspace

    @cached_property
    def overlaps(self) -> dict[str, Tensor | None]:
        """U_sᵀU_t and V_sᵀV_t, (k_s, k_t); None for a side of different width."""
        sides = {side: (getattr(self.source, side), getattr(self.target, side)) for side in ("left", "right")}
        return {side: a.T @ b if a.shape[0] == b.shape[0] else None for side, (a, b) in sides.items()}

    def likeness(self) -> dict[str, float | int | None]:
        """k, Φ_l, Φ_r and both corrected for chance (LoRA-X, arXiv 2501.16559).

        Φ compares subspaces of one space: sides of different width have None.
        """
        k = max(self.source.k, self.target.k)
        figures: dict[str, float | int | None] = {"k": min(self.source.k, self.target.k)}
        for side in ("left", "right"):
            overlap = self.overlaps[side]
            alike = None if overlap is None else phi_of(overlap)
            expected = chance(k, getattr(self.source, side).shape[0])
            figures[f"phi_{side}"] = alike
            figures[f"phi_{side}_corrected"] = None if alike is None or expected >= 1 else corrected(alike, expected)
        return figures

    def drift(self) -> float | None:
        """‖W_t − W_s‖ / ‖W_s‖ of the leading parts U Σ Vᵀ alone, from k x k products; None when the shapes differ."""
        left, right = self.overlaps["left"], self.overlaps["right"]
        if left is None or right is None:
            return None
        ours, theirs = self.source.values.double(), self.target.values.double()
        before, after = float(ours.square().sum()), float(theirs.square().sum())
        overlap = float((ours[:, None] * theirs * left.double() * right.double()).sum())
        away = max(before + after - 2 * overlap, 0.0)
        return math.sqrt(away / before) if before > 0 else (0.0 if away == 0 else math.inf)


class Pairs:
    """Subspaces of two bases, computed when asked for, kept in the cache, on one device."""

    def __init__(
        self, source: Base, target: Base, size: SubspaceSize, cache: SubspaceCache | None, device: torch.device | str
    ):
        self.source, self.target, self.size, self.cache, self.device = source, target, size, cache, device
        self._last: dict[tuple[bool, WeightSlice], Tensor] = {}

    def pair(self, ours: WeightSlice, theirs: WeightSlice) -> Pair:
        """The pair for two weight slices. With a size by energy the source's spectrum decides k for both."""
        source = self._subspace(self.source, ours, self.size)
        return Pair(source, self._subspace(self.target, theirs, SubspaceSize(k=source.k)))

    def by_slice(self, ours: WeightSlice, theirs: WeightSlice) -> list[tuple[WeightSlice, Pair]]:
        """The pair of every slice of a weight, with the source's slice; none for vectors (see :func:`slice_pairs`)."""
        return [(mine, self.pair(mine, yours)) for mine, yours in slice_pairs(self.source, self.target, ours, theirs)]

    def drift(self, ours: WeightSlice, theirs: WeightSlice) -> float | None:
        """‖W_t − W_s‖ / ‖W_s‖ of the whole weights, about 1.4 between strangers; None when the shapes differ."""
        return self._figure(lambda: self._drift(ours, theirs), "drift", (self.source, ours), (self.target, theirs))

    def _drift(self, ours: WeightSlice, theirs: WeightSlice) -> float | None:
        before, after = self.weight(self.source, ours), self.weight(self.target, theirs)
        if before.shape != after.shape:
            return None
        size = float(torch.linalg.vector_norm(before, dtype=torch.float64))
        away = float(torch.linalg.vector_norm(after - before, dtype=torch.float64))
        return away / size if size > 0 else (0.0 if away == 0 else math.inf)

    def same(self, ours: WeightSlice, theirs: WeightSlice) -> bool:
        """Whether the two weights are the same numbers."""
        return ours[1:] == theirs[1:] and self._digest(self.source, ours) == self._digest(self.target, theirs)

    def rounded(self, ours: WeightSlice, theirs: WeightSlice) -> str:
        """The two storages, "fp16 and Q4_K", where the weights differ by no more than these round; else ""."""
        first, second = self.source.storage(ours.name), self.target.storage(theirs.name)
        if (first == second and first in DTYPES) or (drift := self.drift(ours, theirs)) is None:
            return ""

        def bound() -> float:
            before, after = self.weight(self.source, ours), self.weight(self.target, theirs)
            return SLACK * (rounding(second, before) + rounding(first, after))

        most = self._figure(bound, f"rounding {first} {second}", (self.source, ours), (self.target, theirs))
        return f"{first} and {second}" if 0 < drift <= most else ""

    def empty(self, theirs: WeightSlice) -> bool:
        """Whether the target's weight is all zero: a block that was pruned but stays in the file."""
        return self._figure(lambda: not bool(self.weight(self.target, theirs).any()), "empty", (self.target, theirs))

    def _figure(self, compute: Callable[[], Figure], name: str, *weights: tuple[Base, WeightSlice]) -> Figure:
        """What was computed of the same weights before, without reading them again."""
        if self.cache is None:
            return compute()
        contents = [(self._digest(base, each), shape_of(base, each), each[1:]) for base, each in weights]
        return self.cache.figure((name, str(self.device), *contents), compute)

    def weight(self, base: Base, weight_slice: WeightSlice) -> Tensor:
        """The weight, or its slice, float32 on the device. The last one of either base is kept."""
        ours = base is self.source
        if (ours, weight_slice) not in self._last:
            self._last = {key: kept for key, kept in self._last.items() if key[0] != ours}
            self._last[ours, weight_slice] = load_weight_slice(base, weight_slice).to(self.device)
        return self._last[ours, weight_slice]

    def _subspace(self, base: Base, weight_slice: WeightSlice, size: SubspaceSize) -> Subspace:
        def compute() -> Subspace:
            weight = flatten(self.weight(base, weight_slice))
            return subspace(weight, size.resolve(weight.shape, spectrum(weight) if size.needs_spectrum else None))

        if self.cache is None:
            return compute()
        if not size.needs_spectrum:
            size = SubspaceSize(k=size.resolve(shape_of(base, weight_slice)))
        key = subspace_key(self._digest(base, weight_slice), size, *weight_slice[1:])
        return self.cache.get_or_compute(key, compute).to(self.device)

    def _digest(self, base: Base, weight_slice: WeightSlice) -> str:
        return base.digest(weight_slice.name) if self.cache is None else self.cache.digest(base, weight_slice.name)
