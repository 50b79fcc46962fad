"""LoKr (LyCORIS, arXiv 2309.14859): ΔW = s · w₁ ⊗ w₂, each factor full or itself factored."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..kernels.kron import kron, trivial
from ..kernels.lowrank import LowRank, scale
from .module import ALPHA, AdapterModule

W1, W1A, W1B = ".lokr_w1", ".lokr_w1_a", ".lokr_w1_b"
W2, W2A, W2B, T2 = ".lokr_w2", ".lokr_w2_a", ".lokr_w2_b", ".lokr_t2"


class Lokr(AdapterModule):
    """A Kronecker product; its exact rank is rank(w₁)·rank(w₂).

    Its factors are those of w₁ and w₂ joined (:func:`..kernels.kron.kron`), a full one split trivially. The
    scale alpha/rank applies only when a factor is factored, with w₂'s rank before w₁'s; two full factors ignore alpha,
    in ComfyUI and LyCORIS alike (PEFT's configuration does scale them).

    ComfyUI 0.33 logs an error on a Tucker core and leaves the weight as it is (torch.kron refuses the non-contiguous
    factor); this follows LyCORIS.
    """

    kind = "lokr"
    suffixes = (W1, W1A, W1B, W2, W2A, W2B, T2)

    def check(self) -> None:
        for full, a, b in ((W1, W1A, W1B), (W2, W2A, W2B)):
            if full in self.tensors:
                self.need(full)
            else:
                left, right = self.need(a, b)
                core = self.tensors.get(T2) if full == W2 else None
                joint = (left.shape[1],) * 2 if core is None else tuple(core.shape[:2])
                if joint != (left.shape[0] if core is not None else left.shape[1], right.shape[0]):
                    self.fail(f"Rank mismatch: {a} is {tuple(left.shape)}, {b} is {tuple(right.shape)}", suffix=a)

    def _first(self) -> LowRank:
        """Factors (a, p) and (p, b) of w₁."""
        if W1 in self.tensors:
            return trivial(self.tensors[W1].float().flatten(1))
        return LowRank(self.tensors[W1A].float(), self.tensors[W1B].float())

    def _second(self) -> LowRank:
        """Factors (c, q) and (q, d·kh·kw) of w₂."""
        if W2 in self.tensors:
            return trivial(self.tensors[W2].float().flatten(1))
        a, b = self.tensors[W2A].float(), self.tensors[W2B].float()
        if T2 in self.tensors:
            return LowRank(a.T, torch.einsum("p q ..., q i -> p i ...", self.tensors[T2].float(), b).flatten(1))
        return LowRank(a, b.flatten(1))

    @property
    def rank(self) -> int | None:
        """Rank of the factored part that alpha refers to; None when both factors are full."""
        part = self.tensors.get(W2B, self.tensors.get(W1B))
        return None if part is None else part.shape[0]

    def scale(self, rank: int | None = None) -> float:
        if self.rank is None:
            return 1.0 if self.config_scale is None else self.config_scale
        return super().scale(rank)

    @property
    def shape(self) -> tuple[int, ...]:
        left, right = (W1, W1) if W1 in self.tensors else (W1A, W1B)
        first = (self.tensors[left].shape[0], self.tensors[right].shape[1])
        if W2 in self.tensors:
            second = self.tensors[W2].shape
        elif T2 in self.tensors:
            second = (self.tensors[W2A].shape[1], self.tensors[W2B].shape[1], *self.tensors[T2].shape[2:])
        else:
            second = (self.tensors[W2A].shape[0], *self.tensors[W2B].shape[1:])
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def low_rank(self, weight: Tensor | None = None) -> LowRank:
        return scale(kron(self._first(), self._second()), self.scale())

    def delta(self, weight: Tensor | None = None) -> Tensor:
        return self.shaped(torch.kron(self._first().dense(), self._second().dense()) * self.scale(), weight)

    def scaled(self, strength: float) -> Lokr:
        on_alpha = ALPHA in self.tensors and self.rank is not None
        return replace(self, tensors=self.times(strength, ALPHA if on_alpha else W1 if W1 in self.tensors else W1A))
