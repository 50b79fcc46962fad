"""LoRA-X: ΔW = alpha/rank · U ΔΣ Vᵀ inside the base weight's top singular subspace, only ΔΣ trained.

Source: LoRA-X (arXiv 2501.16559), section 4.1; the paper trains a diagonal ΔΣ, the full k x k one is its superset.
Such an adapter moves to a relative of its base by projection alone (kernels/transfer/lora_x.py).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ...lowrank import LowRank
from ...spectral import flatten, subspace
from .model import Change, Student, column, kernel, scale_of, warm_start_error
from .registry import student


@student(name="lora-x", display="LoRA-X (full core)", paper="LoRA-X, arXiv 2501.16559")
class LoraXStudent(Student):
    """Parameter ``core`` (k, k), k = rank; starts from Uᵀ ΔW V. ``left`` U (m, k) and ``right`` V (n·kh·kw, k) stay."""

    needs_base = True
    rate_factor = 3.0
    diagonal: ClassVar[bool] = False

    @classmethod
    def create(
        cls, weight_shape, rank, alpha, generator, *, weight=None, warm_start=None, device="cpu", dtype=torch.float32
    ) -> LoraXStudent:
        assert weight is not None  # the registry has seen to that
        scale, base = scale_of(alpha, rank), subspace(flatten(weight), rank)
        core = torch.zeros(base.k, base.k)
        if warm_start is not None:
            up, down = warm_start
            core = (base.left.to(up).T @ up) @ (down @ base.right.to(down)) / scale
        core = core.diagonal() if cls.diagonal else core
        made = cls(
            weight_shape, scale, {"core": core}, {"left": base.left, "right": base.right}, device=device, dtype=dtype
        )
        made.warm_start_error = warm_start_error(warm_start, LowRank(*made.change()[:2]))
        return made

    def change(self) -> Change:
        core, left = self.params["core"] * self.scale, self.fixed["left"]
        return Change(left * core if self.diagonal else left @ core, self.fixed["right"].T)

    def tensors(self) -> dict[str, Tensor]:
        core, left = self.params["core"], self.fixed["left"]
        up = left * core if self.diagonal else left @ core
        return {
            ".lora_up.weight": column(up, self.shape),
            ".lora_down.weight": kernel(self.fixed["right"].T, self.shape),
            ".alpha": self.file_alpha(up.shape[1]),
        }


@student(name="lora-x-diagonal", display="LoRA-X (diagonal core)", paper="LoRA-X, arXiv 2501.16559")
class LoraXDiagonalStudent(LoraXStudent):
    """Parameter ``core`` (k,), the diagonal of ΔΣ; starts from the diagonal of Uᵀ ΔW V."""

    rate_factor = 10.0  # so few numbers must go far: a rate of 0.03 gave .50 of ten pictures' effects, this .78
    diagonal = True
