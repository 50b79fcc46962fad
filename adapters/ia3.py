"""IA³ (arXiv 2205.05638): channels of the weight scaled by a learned vector, ΔW = W ⊙ v."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from torch import Tensor

from .module import AdapterModule

WEIGHT, ON_INPUT, PEFT_L = ".weight", ".on_input", ".ia3_l"


class Ia3(AdapterModule):
    """LyCORIS stores v (0 = no change) as ``.weight`` with the flag ``.on_input``; PEFT stores 1 + v as ``.ia3_l``.

    v multiplies input channels (``on_input``; PEFT (1, n)) or output channels (PEFT (m, 1)).
    """

    kind = "ia3"
    needs_base = True
    suffixes = (WEIGHT, ON_INPUT, PEFT_L)

    @classmethod
    def split(cls, key: str, keys: Container[str]) -> tuple[str, str] | None:
        hit = super().split(key, keys)
        return hit if hit and (hit[1] == PEFT_L or hit[0] + ON_INPUT in keys) else None

    def check(self) -> None:
        self.need(*((PEFT_L,) if PEFT_L in self.tensors else (ON_INPUT, WEIGHT)))

    def _vector(self, shape: tuple[int, ...]) -> tuple[Tensor, bool]:
        """v flattened, and whether it acts on the input channels of a weight of this shape."""
        if PEFT_L not in self.tensors:
            return self.tensors[WEIGHT].float().flatten(), bool(self.tensors[ON_INPUT].any())
        stored = self.tensors[PEFT_L]
        on_input = stored.shape[0] == 1
        if stored.ndim > 2 and stored.numel() == shape[0]:
            if shape[0] == shape[1]:
                self.fail(
                    "PEFT's IA3 for a convolution with as many inputs as outputs does not tell which it scales",
                    suffix=PEFT_L,
                )
            on_input = False
        return stored.float().flatten() - 1, on_input

    def fits(self, shape: tuple[int, ...]) -> bool:
        if len(shape) < 2:
            return False
        vector, on_input = self._vector(shape)
        return vector.numel() == shape[1 if on_input else 0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        base = self.base(weight)
        self.shaped(base, base)
        vector, on_input = self._vector(tuple(base.shape))
        channels = (1, -1) if on_input else (-1, 1)
        return base * vector.reshape(*channels, *[1] * (base.ndim - 2))

    def scaled(self, strength: float) -> Ia3:
        if PEFT_L in self.tensors:
            moved = 1 + (self.tensors[PEFT_L].float() - 1) * strength
            return replace(self, tensors={**self.times(strength), PEFT_L: moved.to(self.tensors[PEFT_L].dtype)})
        return replace(self, tensors=self.times(strength, WEIGHT))
