"""LoHa (arXiv 2108.06098, FedPara; LyCORIS arXiv 2309.14859): ΔW = s · (A₁B₁) ⊙ (A₂B₂)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..kernels.kron import khatri_rao
from ..kernels.lowrank import LowRank, scale
from .module import ALPHA, AdapterModule

PAIRS = (".hada_w1_a", ".hada_w1_b"), (".hada_w2_a", ".hada_w2_b")
CORES = ".hada_t1", ".hada_t2"


class Loha(AdapterModule):
    """A Hadamard product of two low-rank matrices; its exact rank is at most r₁·r₂.

    Its factors are Khatri-Rao products of the halves' (:func:`..kernels.kron.khatri_rao`).
    With Tucker cores t (r, r, kh, kw), ``a`` is (r, m), ``b`` is (r, n) and
    W[o, i, k, l] = Σ_pq a[p,o] t[p,q,k,l] b[q,i].
    """

    kind = "loha"
    suffixes = (*PAIRS[0], *PAIRS[1], *CORES)

    def check(self) -> None:
        self.need(*PAIRS[0], *PAIRS[1])
        if any(core in self.tensors for core in CORES):
            self.need(*CORES)
        shapes = []
        for (a, b), core in zip(PAIRS, CORES, strict=True):
            left, right = self.tensors[a], self.tensors[b]
            rank = left.shape[0] if core in self.tensors else left.shape[1]
            joint = self.tensors[core].shape[:2] if core in self.tensors else (rank, rank)
            if tuple(joint) != (rank, right.shape[0]):
                self.fail(f"Rank mismatch: {a} is {tuple(left.shape)}, {b} is {tuple(right.shape)}", suffix=a)
            shapes.append(self._pair(0 if a == PAIRS[0][0] else 1))
        (u1, d1), (u2, d2) = shapes
        if u1.shape[0] != u2.shape[0] or d1.shape[1] != d2.shape[1]:
            self.fail("The two halves of the Hadamard product have different shapes")

    def _pair(self, which: int) -> LowRank:
        """Factors (m, r) and (r, n·kh·kw) of one half."""
        a, b = (self.tensors[s].float() for s in PAIRS[which])
        if CORES[which] not in self.tensors:
            return LowRank(a.flatten(1), b.flatten(1))
        core = self.tensors[CORES[which]].float()
        return LowRank(a.T, torch.einsum("p q ..., q i -> p i ...", core, b).flatten(1))

    @property
    def rank(self) -> int:
        return self.tensors[PAIRS[0][1]].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        a, b = (self.tensors[s] for s in PAIRS[0])
        if CORES[0] in self.tensors:
            return (a.shape[1], b.shape[1], *self.tensors[CORES[0]].shape[2:])
        return (a.shape[0], *b.shape[1:])

    def low_rank(self, weight: Tensor | None = None) -> LowRank:
        return scale(khatri_rao(self._pair(0), self._pair(1)), self.scale())

    def delta(self, weight: Tensor | None = None) -> Tensor:
        (u1, d1), (u2, d2) = self._pair(0), self._pair(1)
        return self.shaped((u1 @ d1) * (u2 @ d2) * self.scale(), weight)

    def scaled(self, strength: float) -> Loha:
        return replace(self, tensors=self.times(strength, ALPHA if ALPHA in self.tensors else PAIRS[0][0]))
