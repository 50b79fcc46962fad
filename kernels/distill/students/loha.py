"""LoHa: ΔW = alpha/rank · (A₁B₁) ⊙ (A₂B₂), of rank up to r².

Source: FedPara (arXiv 2108.06098), proposition 1; zero start as LyCORIS' (arXiv 2309.14859): A₂ = 0, the others random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...kron import khatri_rao
from ...lowrank import LowRank
from .model import Change, Student, pair, scale_of, stored, usable_rank
from .registry import student

NAMES = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"


@student(name="loha", display="LoHa", paper="FedPara, arXiv 2108.06098")
class LohaStudent(Student):
    """Parameters ``hada_w1_a``, ``hada_w2_a`` (m, r) and ``hada_w1_b``, ``hada_w2_b`` (r, n·kh·kw).

    A start of rank up to r is met exactly: the second matrix is its best rank-r cut, the first is all ones in its
    first component; its other components are zero times random, so that all of them learn.
    """

    @classmethod
    def create(
        cls, weight_shape, rank, alpha, generator, *, weight=None, warm_start=None, device="cpu", dtype=torch.float32
    ) -> LohaStudent:
        scale, usable = scale_of(alpha, rank), usable_rank(rank, weight_shape)
        a2, b2, error = pair(weight_shape, usable, scale, generator, warm_start)
        a1 = torch.randn(a2.shape, generator=generator) * 0.1
        b1 = torch.randn(b2.shape, generator=generator)
        if warm_start is None:
            b2 = torch.randn(b2.shape, generator=generator)
        else:
            a1, b1[0] = torch.zeros_like(a1), 1.0
            a1[:, 0] = 1.0
        return cls(
            weight_shape,
            scale,
            dict(zip(NAMES, (a1, b1, a2, b2), strict=True)),
            warm_start_error=error,
            device=device,
            dtype=dtype,
        )

    def change(self) -> Change:
        a1, b1, a2, b2 = (self.params[name] for name in NAMES)
        return Change(*khatri_rao(LowRank(a1 * self.scale, b1), LowRank(a2, b2)))

    def tensors(self) -> dict[str, Tensor]:
        rank = self.params[NAMES[0]].shape[1]
        return {"." + name: stored(self.params[name]) for name in NAMES} | {".alpha": self.file_alpha(rank)}
