"""DoRA: W' = magnitude ∘ (W + alpha/rank · up @ down) / ‖W‖, by output channel.

Source: DoRA (arXiv 2402.09353), equation 5, with the norm of the base weight below the line, as ComfyUI has it
(adapters/dora.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...spectral import flatten
from .lora import Lora
from .model import Change, pair, scale_of, stored, usable_rank
from .registry import student

EPS = torch.finfo(torch.float32).eps


@student(name="dora", display="DoRA", paper="DoRA, arXiv 2402.09353")
class Dora(Lora):
    """Parameters of LoRA and ``magnitude`` (m,), which starts as the constant ``norm`` (m,) = ‖W‖ + ε: gain 1."""

    needs_base = True

    @classmethod
    def create(
        cls, weight_shape, rank, alpha, generator, *, weight=None, start=None, device="cpu", dtype=torch.float32
    ) -> Dora:
        scale = scale_of(alpha, rank)
        up, down, error = pair(weight_shape, usable_rank(rank, weight_shape), scale, generator, start)
        norm = torch.linalg.vector_norm(flatten(weight).float(), dim=1) + EPS
        return cls(
            weight_shape,
            scale,
            {"lora_up": up, "lora_down": down, "magnitude": norm},
            {"norm": norm},
            start_error=error,
            device=device,
            dtype=dtype,
        )

    def change(self) -> Change:
        return super().change()._replace(gain=self.params["magnitude"] / self.fixed["norm"])

    def tensors(self) -> dict[str, Tensor]:
        magnitude = stored(self.params["magnitude"])
        return super().tensors() | {".dora_scale": magnitude.reshape(-1, *[1] * (len(self.shape) - 1))}
