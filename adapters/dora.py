"""DoRA (arXiv 2402.09353) over any other format: W' = m ⊙ (W + ΔW) / ‖…‖, the magnitude m learned.

Three programs, two definitions of the norm that m is divided by:

* ``dora_scale`` (LyCORIS files). ComfyUI, which this project follows, tells the axis by m's first dimension: as many
  as output channels means one magnitude per output channel, divided by the row norm ‖W‖ of the *base* weight;
  otherwise one per input channel, divided by the column norm ‖W + ΔW‖ of the *merged* weight. float32's epsilon is
  added to either. LyCORIS itself divides by the merged weight's norm on both axes, so on the output axis its picture
  differs slightly from ComfyUI's.
* ``lora_magnitude_vector`` (PEFT, diffusers): one per output channel, divided by ‖W + ΔW‖. ComfyUI 0.33 does not know
  the key and applies such a file as a plain LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .module import AdapterModule

SCALE = ".dora_scale"
MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight")
DIRECTIONS = ("lora", "loha", "lokr", "glora")


@dataclass(frozen=True, eq=False)
class Dora(AdapterModule):
    """inner: the module without its magnitudes; its ΔW gives the direction."""

    inner: AdapterModule = field(kw_only=True)

    kind = "dora"
    needs_base = True
    suffixes = (SCALE, *MAGNITUDES)

    def check(self) -> None:
        self.need(self.suffix)
        if self.inner.kind not in DIRECTIONS:
            self.fail(f"Magnitudes on a {self.inner.kind} module have no agreed meaning", suffix=self.suffix)
        self.inner.check()
        if self.inner.shape is None:
            self.fail("Magnitudes on a change of unknown shape", suffix=self.suffix)
        rows = self.inner.shape[0]
        if not self.tensors[self.suffix].ndim:
            self.fail("The magnitudes are one number without an axis", suffix=self.suffix)
        if self.suffix != SCALE and self.tensors[self.suffix].numel() != rows:
            self.fail(f"{self.tensors[self.suffix].numel()} magnitudes for {rows} output channels", suffix=self.suffix)

    @property
    def suffix(self) -> str:
        """The suffix under which the magnitudes are stored."""
        return next(s for s in self.suffixes if s in self.tensors)

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def shape(self) -> tuple[int, ...] | None:
        return self.inner.shape

    def bias(self) -> Tensor | None:
        return self.inner.bias()

    def renamed(self, key: str) -> Dora:
        return replace(self, key=key, inner=self.inner.renamed(key))

    def _norm(self, base: Tensor, merged: Tensor) -> Tensor:
        """The norm that divides the magnitudes, shaped to broadcast over the weight."""
        magnitudes = self.tensors[self.suffix]
        if self.suffix == SCALE and magnitudes.shape[0] != base.shape[0]:
            return _column_norm(merged)
        return _row_norm(base if self.suffix == SCALE else merged)

    def _magnitudes(self, weight: Tensor) -> Tensor:
        """m, float32, shaped to broadcast over the weight."""
        values = self.tensors[self.suffix].float()
        if weight.ndim < 2:
            self.fail("Magnitudes for a weight that is no matrix", suffix=self.suffix)
        on_rows = self.suffix != SCALE or values.shape[0] == weight.shape[0]
        if values.numel() != weight.shape[0 if on_rows else 1]:
            self.fail(f"{values.numel()} magnitudes for a weight of shape {tuple(weight.shape)}", suffix=self.suffix)
        channels = (-1, 1) if on_rows else (1, -1)
        return values.reshape(*channels, *[1] * (weight.ndim - 2))

    def delta(self, weight: Tensor | None = None) -> Tensor:
        base = self.base(weight)
        merged = base + self.inner.delta(base)
        gain = self._magnitudes(base) / (self._norm(base, merged) + torch.finfo(torch.float32).eps)
        return merged * gain - base

    def reanchored(self, source_weight: Tensor, target_weight: Tensor, inner: AdapterModule | None = None) -> Dora:
        """DoRA for another base weight of the same shape, with the same relative change of magnitude.

        The magnitudes are multiplied by the ratio of the norms they are divided by, target's over source's, so that
        m/‖·‖ stays what was learned; the same base gives the same module. ``inner`` replaces the direction (it must
        hold the same kinds of tensors); by default the source's is kept.
        """
        source, target = self.base(source_weight), self.base(target_weight)
        if source.shape != target.shape:
            self.fail(
                f"The bases differ in shape: {tuple(source.shape)} and {tuple(target.shape)}",
                hint="Turn the module into a plain update first.",
            )
        moved = inner or self.inner
        self._magnitudes(source)  # fails where they are not as many as the weight's channels
        old = self._norm(source, source + self.inner.delta(source))
        new = self._norm(target, target + moved.delta(target))
        values = self.tensors[self.suffix]
        ratio = (new / old.clamp_min(torch.finfo(torch.float32).tiny)).reshape(values.shape)
        scaled = values if torch.equal(new, old) else (values.float() * ratio).to(values.dtype)
        return replace(self, key=moved.key, tensors={**moved.tensors, self.suffix: scaled}, inner=moved)


def _row_norm(weight: Tensor) -> Tensor:
    """Norm of each output channel, (m, 1, ...)."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)


def _column_norm(weight: Tensor) -> Tensor:
    """Norm of each input channel, (1, n, 1, ...)."""
    return torch.linalg.vector_norm(weight, dim=(0, *range(2, weight.ndim)), keepdim=True)
