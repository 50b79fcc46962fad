"""GLoRA (arXiv 2306.07967, the weight terms A and B as LyCORIS trains them): ΔW = s · (W·A + B)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import torch
from torch import Tensor

from ..kernels.lowrank import LowRank
from .module import ALPHA, AdapterModule

A1, A2, B1, B2, BM = ".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight", ".bm.weight"


class Glora(AdapterModule):
    """Two factored terms, one of them acting through the base weight. Two incompatible layouts exist:

    new  ΔW = s (W·a1·a2 + b1·b2), a1 (n, r), a2 (r, n), b1 (m, r), b2 (r, n, kh, kw), optional core bm (r, r, kh, kw)
    old  ΔW = s (W·a2·a1 + b2·b1), a1 (r, n), a2 (n, r), b1 (r, n), b2 (m, r)

    told apart by shapes, as ComfyUI does. A convolution's A mixes input channels at every kernel position alike.
    Exact rank: 2r for matrices, r(1 + kh·kw) for kernels.
    """

    kind = "glora"
    needs_base = True
    suffixes = (A1, A2, B1, B2, BM)

    @classmethod
    def split(cls, key: str, keys: Container[str]) -> tuple[str, str] | None:
        hit = super().split(key, keys)
        return hit if hit and hit[0] + A1 in keys else None

    def check(self) -> None:
        self.need(A1, A2, B1, B2)
        if not (self._could_be_old or self._could_be_new):
            shapes = ", ".join(f"{s} {tuple(self.tensors[s].shape)}" for s in (A1, A2, B1, B2))
            self.fail(f"Rank mismatch among the GLoRA factors: {shapes}", suffix=A1)

    @property
    def _could_be_old(self) -> bool:
        a1, a2, b1, b2 = (self.tensors[s].shape for s in (A1, A2, B1, B2))
        return b2[1] == b1[0] == a1[0] == a2[1]

    @property
    def _could_be_new(self) -> bool:
        a1, a2, b1, b2 = (self.tensors[s].shape for s in (A1, A2, B1, B2))
        return b2[0] == b1[1] == a1[1] == a2[0]

    def _old(self, weight: Tensor | None) -> bool:
        """Old layout, given the shapes; only square weights whose rank equals their width leave a doubt."""
        if not self._could_be_new:
            return True
        square = weight is not None and weight.shape[0] == weight.shape[1] == self.tensors[A2].shape[0]
        return self._could_be_old and square

    @property
    def rank(self) -> int:
        return self.tensors[A1].shape[0] if self._old(None) else self.tensors[A2].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        up, down = (B2, B1) if self._old(None) else (B1, B2)
        kernel = self.tensors[BM].shape[2:] if BM in self.tensors else self.tensors[down].shape[2:]
        return (self.tensors[up].shape[0], self.tensors[down].shape[1], *kernel)

    def low_rank(self, weight: Tensor | None = None) -> LowRank:
        base = self.base(weight)
        if not self.fits(tuple(base.shape)):
            self.shaped(base.new_zeros(0), base)
        a1, a2, b1, b2 = (self.tensors[s].float().flatten(1) for s in (A1, A2, B1, B2))
        if self._old(base):
            up = torch.cat([b2, base.flatten(1) @ a2], 1)
            return LowRank(up * self.scale(a1.shape[0]), torch.cat([b1, a1]))
        if BM in self.tensors:
            b2 = torch.einsum("i p ..., p j -> i j ...", self.tensors[BM].float(), b2).flatten(1)
        kernels = base.flatten(2).unbind(2) if base.ndim > 2 else [base]
        ups, positions = [w @ a1 for w in kernels], torch.eye(len(kernels), dtype=a2.dtype, device=a2.device)
        # Row block k of ``down`` carries a2 into kernel position k and zeros elsewhere.
        downs = [torch.kron(a2, position) for position in positions]
        return LowRank(torch.cat([b1, *ups], 1) * self.scale(a2.shape[0]), torch.cat([b2, *downs]))

    def scaled(self, strength: float) -> Glora:
        names = (ALPHA,) if ALPHA in self.tensors else (A1, B1)
        return replace(self, tensors=self.times(strength, *names))
