"""LoKr: ΔW = w₁ ⊗ w₂, w₁ small and full, w₂ large and factored unless the rank is no smaller than half of it.

Source: LyCORIS (arXiv 2309.14859), section 3.3, with its split of the sides; starts from w₂ = 0 (of a factored one its
left factor). The scale alpha/rank belongs to a factored w₂ only.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from ...kron import kron, trivial
from ...lowrank import LowRank, from_dense
from .model import Change, Student, kernel, pair, scale_of, stored, uniform, warm_start_error
from .registry import student

FACTOR = 8


@student(name="lokr", display="LoKr", paper="LyCORIS, arXiv 2309.14859")
class LokrStudent(Student):
    """Parameters ``lokr_w1`` (a, b) and ``lokr_w2`` (c, d·kh·kw) or ``lokr_w2_a`` (c, r), ``lokr_w2_b`` (r, d·kh·kw).

    m = a·c and n = b·d (:func:`split`). Starts from the nearest Kronecker product (:func:`nearest`), w₂ then cut.
    """

    rate_factor = 3.0

    @classmethod
    def create(
        cls, weight_shape, rank, alpha, generator, *, weight=None, warm_start=None, device="cpu", dtype=torch.float32
    ) -> LokrStudent:
        (a, c), (b, d) = split(weight_shape[0]), split(weight_shape[1])
        second = (c, d, *weight_shape[2:])
        factored = rank < max(c, d) / 2
        scale = scale_of(alpha, rank) if factored else 1.0
        w1 = uniform(generator, a, b)
        if warm_start is not None:
            w1, nearest_w2 = nearest(warm_start, a, b)
        if factored:
            target = None if warm_start is None else trivial(nearest_w2)
            left, right, _ = pair(second, rank, scale, generator, target)
            rest = {"lokr_w2_a": left, "lokr_w2_b": right}
        else:
            rest = {"lokr_w2": torch.zeros(c, d * _area(weight_shape)) if warm_start is None else nearest_w2}
        made = cls(weight_shape, scale, {"lokr_w1": w1, **rest}, device=device, dtype=dtype)
        made.warm_start_error = warm_start_error(warm_start, LowRank(*made.change()[:2]))
        return made

    def change(self) -> Change:
        first = trivial(self.params["lokr_w1"] * self.scale)
        if "lokr_w2" in self.params:
            return Change(*kron(first, trivial(self.params["lokr_w2"])))
        return Change(*kron(first, LowRank(self.params["lokr_w2_a"], self.params["lokr_w2_b"])))

    def tensors(self) -> dict[str, Tensor]:
        out = {"." + name: stored(tensor) for name, tensor in self.params.items()}
        if ".lokr_w2" not in out:
            return out | {".alpha": self.file_alpha(out[".lokr_w2_b"].shape[0])}
        out[".lokr_w2"] = kernel(out[".lokr_w2"], (0, split(self.shape[1])[1], *self.shape[2:]))
        return out


def split(dimension: int, factor: int = FACTOR) -> tuple[int, int]:
    """A side as small · large: `factor` where it divides the side, else the largest divisor below it up to √side."""
    if dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    small = max(d for d in range(1, min(factor, isqrt(dimension)) + 1) if dimension % d == 0)
    return small, dimension // small


def nearest(update: LowRank, a: int, b: int) -> tuple[Tensor, Tensor]:
    """w₁ (a, b) and w₂ (c, d·kh·kw) whose Kronecker product is nearest to ΔW; both carry √σ.

    Source: Van Loan and Pitsianis (1993): the best rank one of ΔW with its blocks laid out as rows.
    """
    m, n = update.shape
    c, d = m // a, n // b
    # Column j = (its b, then d with the kernel), row i = (its a, then c).
    blocks = update.dense().cpu().reshape(a, c, b, d).transpose(1, 2).reshape(a * b, c * d)
    best, _ = from_dense(blocks, rank=1)
    return best.up.reshape(a, b), best.down.reshape(c, d)


def _area(shape: tuple[int, ...]) -> int:
    """kh·kw."""
    return int(torch.Size(shape[2:]).numel())
