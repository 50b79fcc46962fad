"""One weight's share of an adapter file.

A module is everything the file says about one weight: its key (the file's key without the suffix) and the tensors
exactly as read, by suffix. Each format is one subclass that knows how those tensors become ΔW.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from math import prod
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from ..errors import AdapterError, GraftError
from ..kernels import lowrank
from ..kernels.lowrank import LowRank

ALPHA = ".alpha"
BIASES = (".diff_b", ".b_norm", ".lora_B.bias")


def _explained(method: Any) -> Any:
    """The method, where arithmetic that cannot be done with the module's tensors is the file's fault."""

    @wraps(method)
    def run(self: AdapterModule, *args: Any) -> Any:
        try:
            return method(self, *args)
        except (GraftError, torch.cuda.OutOfMemoryError):
            raise
        except (IndexError, TypeError, ValueError, RuntimeError) as problem:
            shapes = ", ".join(f"{suffix} {tuple(t.shape)}" for suffix, t in self.tensors.items())
            if "allocate memory" in str(problem):
                raise MemoryError from problem
            raise self.error(
                f"The tensors of this {self.kind} module do not fit each other: {shapes}",
                hint="The file is damaged; save or download it again.",
            ) from problem

    return run


@dataclass(frozen=True, eq=False)
class AdapterModule:
    """One weight's share of an adapter. Immutable; ``renamed`` and ``scaled`` return new modules.

    key:     module key in the file, without suffix, e.g. ``lora_unet_mid_block_attentions_0_proj_in``.
    tensors: suffix (with its leading ``.`` or ``_``) -> tensor exactly as read; ``key + suffix`` is the file's key.
    config_scale: the scale that the file's metadata gives for this module when it has no ``alpha`` tensor; else None.
    file:    where it came from, for error messages.
    """

    key: str
    tensors: dict[str, Tensor] = field(repr=False)
    config_scale: float | None = None
    file: str | None = None

    kind: ClassVar[str] = "?"
    needs_base: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **more: Any) -> None:
        """What a format computes from a file's tensors fails with an AdapterError, whatever shapes they have."""
        super().__init_subclass__(**more)
        for name in ("check", "rank", "shape", "low_rank", "delta", "norm", "bias"):
            own = cls.__dict__.get(name)
            if isinstance(own, property):
                setattr(cls, name, property(_explained(own.fget), doc=own.__doc__))
            elif own is not None:
                setattr(cls, name, _explained(own))

    # ---- how the registry recognises a format

    @classmethod
    def split(cls, key: str, keys: Container[str]) -> tuple[str, str] | None:
        """``(module key, suffix)`` when this file key belongs to the format; ``keys`` are all keys of the file."""
        for suffix in cls.suffixes:
            if key.endswith(suffix) and len(key) > len(suffix):
                return key[: -len(suffix)], suffix
        return None

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a module with these tensors (by suffix) is of this format."""
        return any(s in cls.suffixes for s in tensors)

    def check(self) -> None:
        """Raises AdapterError for a missing half, a zero rank or factors that do not fit each other."""

    # ---- what it means

    @property
    def rank(self) -> int | None:
        """The rank as the trainer named it (of each factor pair); None where the format has none."""
        return None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the weight, (out, in) or (out, in, kh, kw); None where the factors do not tell."""
        return None

    @property
    def alpha(self) -> float | None:
        """The ``alpha`` tensor's value; None when the file has none (scale 1 then, or ``config_scale``)."""
        value = self.tensors.get(ALPHA)
        return None if value is None else float(value)

    def scale(self, rank: int | None = None) -> float:
        """alpha / rank. A missing alpha means alpha = rank, unless the metadata gave a scale."""
        rank = rank or self.rank or 1
        if self.alpha is not None:
            return self.alpha / rank
        return 1.0 if self.config_scale is None else self.config_scale

    def low_rank(self, weight: Tensor | None = None) -> LowRank:
        """Exact factors of ΔW flattened to (m, n·kh·kw), the scale in ``up``, float32.

        Formats without a small factorisation return the singular factors of the dense update, of whatever rank it
        has. ``weight`` is the base weight, needed when ``needs_base``; raises AdapterError without it.
        """
        dense = self.delta(weight)
        matrix = dense.reshape(-1, 1) if dense.ndim < 2 else dense.flatten(1)
        return lowrank.from_dense(matrix)[0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """Dense ΔW in the shape of ``weight`` (else in ``shape``), float32. Raises AdapterError if it does not fit."""
        return self.shaped(self.low_rank(weight).dense(), weight)

    def norm(self) -> float:
        """‖ΔW‖_F without the base weight; formats whose ΔW is large where their factors are small say it by these."""
        return float(self.delta().norm())

    def bias(self) -> Tensor | None:
        """What the module adds to the layer's bias, (m,) float32; None when the file has nothing for it."""
        for suffix in BIASES:
            if suffix in self.tensors:
                value = self.tensors[suffix].float()
                return value * self.scale() if suffix == ".lora_B.bias" else value
        return None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether ΔW has as many rows and columns as a weight of this shape (kernels flattened)."""
        mine = self.shape
        if mine is None:
            return True
        return len(shape) > 0 and mine[0] == shape[0] and prod(mine[1:]) == prod(shape[1:])

    # ---- making new ones

    def renamed(self, key: str) -> AdapterModule:
        """The same tensors under another module key."""
        return replace(self, key=key)

    def scaled(self, strength: float) -> AdapterModule:
        """A module whose ΔW (and bias change) is ``strength`` times this one's. AdapterError if inexpressible."""
        raise self.error(f"A {self.kind} module cannot be scaled in its own form", hint=BAKE)

    # ---- helpers for the formats

    def error(self, what: str, *, suffix: str = "", hint: str | None = None) -> AdapterError:
        return AdapterError(what, file=self.file, key=self.key + suffix, hint=hint)

    def fail(self, what: str, *, suffix: str = "", hint: str | None = None) -> NoReturn:
        raise self.error(what, suffix=suffix, hint=hint)

    def base(self, weight: Tensor | None) -> Tensor:
        """The base weight as float32, or AdapterError when it was not given."""
        if weight is None:
            self.fail(
                f"A {self.kind} module changes the weight it is applied to and means nothing without it",
                hint="Give the base model this adapter was made for.",
            )
        return weight.float()

    def shaped(self, matrix: Tensor, weight: Tensor | None) -> Tensor:
        """``matrix`` in the shape of ``weight``, else of this module."""
        shape = self.shape or tuple(matrix.shape)
        if weight is not None:
            if not self.fits(tuple(weight.shape)):
                self.fail(
                    f"The update is {shape} but the weight is {tuple(weight.shape)}",
                    hint="The adapter was made for another architecture.",
                )
            shape = tuple(weight.shape)
        return matrix.reshape(shape)

    def times(self, strength: float, *suffixes: str) -> dict[str, Tensor]:
        """Tensors with the listed ones, and every bias, multiplied by ``strength`` in float32 and rounded back."""
        chosen = {s for s in (*suffixes, *BIASES) if s in self.tensors}
        chosen.discard(".lora_B.bias" if ALPHA in suffixes else "")
        return {
            s: (t.float() * strength).to(t.dtype if s != ALPHA else torch.float32) if s in chosen else t
            for s, t in self.tensors.items()
        }

    def need(self, *suffixes: str) -> list[Tensor]:
        """These tensors; AdapterError naming the first that is missing or has no elements."""
        for suffix in suffixes:
            if suffix not in self.tensors:
                have = next((s for s in suffixes if s in self.tensors), "")
                self.fail(
                    f"Half of a pair is missing: the file has {self.key + have} but not {self.key + suffix}",
                    suffix=suffix,
                    hint="The file is incomplete; save or download it again.",
                )
            if self.tensors[suffix].numel() == 0:
                self.fail(
                    f"Zero rank: {self.key + suffix} has shape {tuple(self.tensors[suffix].shape)}", suffix=suffix
                )
        return [self.tensors[s] for s in suffixes]


BAKE = "Turn it into a plain update first (it needs the base weight), then scale that."
