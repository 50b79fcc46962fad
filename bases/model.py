"""What a base model is to the rest of the project: names, shapes, and weights one at a time."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..kernels.lowrank import swap_halves
from ..names import Names, WeightSlice

Shape = tuple[int, ...]


class Base(Protocol):
    """A base model. ``nodes`` gives a host model the same face.

    label: short name for reports. architecture: see guess.py. names: adapter keys it understands.
    fingerprint: a cheap hash that identifies the whole base.
    """

    label: str
    architecture: str

    @property
    def names(self) -> Names: ...

    @property
    def fingerprint(self) -> str: ...

    def weights(self) -> dict[str, Shape]:
        """Canonical name -> shape of every weight, biases and norms included."""
        ...

    def load(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """The weight (or rows (start, length) of it) as a float32 CPU tensor that belongs to the caller.

        Raises:
            BaseModelError: no such weight, unreadable, or NaN or Inf inside.
        """
        ...

    def storage(self, name: str) -> str:
        """How the weight is stored, as ``io.rounding`` names it: "fp16", "fp8 (e4m3)", "Q4_K", "nvfp4"; "" unknown."""
        ...

    def digest(self, name: str) -> str:
        """Hash of the weight's content (stored bytes, dtype, shape)."""
        ...


def load_weight_slice(base: Base, weight_slice: WeightSlice) -> Tensor:
    """The weight an adapter's module changes, in that module's own row order."""
    weight = base.load(weight_slice.name, weight_slice.rows)
    return swap_halves(weight) if weight_slice.swap else weight
