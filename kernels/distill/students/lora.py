"""LoRA: ΔW = alpha/rank · up @ down.

Source: LoRA (arXiv 2106.09685), section 4.1: `down` random, `up` zero at the start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import Change, Student, column, kernel, pair, scale_of, usable_rank
from .registry import student


@student(name="lora", display="LoRA", paper="LoRA, arXiv 2106.09685")
class LoraStudent(Student):
    """Parameters ``lora_up`` (m, r) and ``lora_down`` (r, n·kh·kw); starts from the best rank-r cut, balanced."""

    @classmethod
    def create(
        cls, weight_shape, rank, alpha, generator, *, weight=None, warm_start=None, device="cpu", dtype=torch.float32
    ) -> LoraStudent:
        scale = scale_of(alpha, rank)
        up, down, error = pair(weight_shape, usable_rank(rank, weight_shape), scale, generator, warm_start)
        return cls(
            weight_shape, scale, {"lora_up": up, "lora_down": down}, warm_start_error=error, device=device, dtype=dtype
        )

    def change(self) -> Change:
        return Change(self.params["lora_up"] * self.scale, self.params["lora_down"])

    def tensors(self) -> dict[str, Tensor]:
        up, down = self.params["lora_up"], self.params["lora_down"]
        return {
            ".lora_up.weight": column(up, self.shape),
            ".lora_down.weight": kernel(down, self.shape),
            ".alpha": self.file_alpha(up.shape[1]),
        }
