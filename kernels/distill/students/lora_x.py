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
from .model import Change, Student, column, kernel, scale_of, start_error
from .registry import student


@student(name="lora-x", display="LoRA-X (full core)", paper="LoRA-X, arXiv 2501.16559")
class LoraX(Student):
    """Parameter ``core`` (k, k), k = rank; starts from Uᵀ ΔW V. ``left`` U (m, k) and ``right`` V (n·kh·kw, k) stay."""

    needs_base = True
    pace = 3.0
    diagonal: ClassVar[bool] = False

    @classmethod
    def create(
        cls, weight_shape, rank, alpha, generator, *, weight=None, start=None, device="cpu", dtype=torch.float32
    ) -> LoraX:
        scale, base = scale_of(alpha, rank), subspace(flatten(weight), rank)
        core = torch.zeros(base.k, base.k)
        if start is not None:
            core = (base.left.to(start.up).T @ start.up) @ (start.down @ base.right.to(start.down)) / scale
        core = core.diagonal() if cls.diagonal else core
        made = cls(
            weight_shape, scale, {"core": core}, {"left": base.left, "right": base.right}, device=device, dtype=dtype
        )
        made.start_error = start_error(start, LowRank(*made.change()[:2]))
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
class LoraXDiagonal(LoraX):
    """Parameter ``core`` (k,), the diagonal of ΔΣ; starts from the diagonal of Uᵀ ΔW V."""

    diagonal = True
