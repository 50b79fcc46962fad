"""Changes stored as they are: whole differences, norms, biases, replaced weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .module import AdapterModule


class Diff(AdapterModule):
    """``.diff``: ΔW itself, in the weight's shape (LyCORIS "full", ComfyUI's trainer), optionally with ``.diff_b``."""

    kind = "diff"
    suffixes = (".diff",)

    def check(self) -> None:
        self.need(self.suffixes[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensors[self.suffixes[0]].shape)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        return self.shaped(self.tensors[self.suffixes[0]].float(), weight)

    def scaled(self, strength: float) -> Diff:
        return replace(self, tensors=self.times(strength, self.suffixes[0]))


class Norm(Diff):
    """``.w_norm`` (and ``.b_norm``): differences of a normalisation layer's scale and shift (LyCORIS)."""

    kind = "norm"
    suffixes = (".w_norm",)


class SetWeight(AdapterModule):
    """``.set_weight``: the new weight itself, which replaces the base's whatever the strength (ComfyUI)."""

    kind = "set"
    needs_base = True
    suffixes = (".set_weight",)

    def check(self) -> None:
        self.need(".set_weight")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensors[".set_weight"].shape)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        base = self.base(weight)
        return self.shaped(self.tensors[".set_weight"].float(), base) - base


class Bias(AdapterModule):
    """A module whose only change is to the layer's bias (``.diff_b``, ``.b_norm``); see :meth:`AdapterModule.bias`."""

    kind = "bias"
    suffixes = (".diff_b", ".b_norm")

    def check(self) -> None:
        self.need(next(s for s in self.suffixes if s in self.tensors))

    def fits(self, shape: tuple[int, ...]) -> bool:
        value = self.bias()
        return value is None or (len(shape) > 0 and shape[0] == value.shape[0])

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """Zero, in the weight's shape (without a weight, the bias's): only the bias changes."""
        like = self.bias() if weight is None else weight
        return torch.zeros(() if like is None else like.shape)

    def scaled(self, strength: float) -> Bias:
        return replace(self, tensors=self.times(strength))
