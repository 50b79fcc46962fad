"""DoRA: W' = magnitude ∘ (W + alpha/rank · up @ down) / ‖W‖, by output channel.

Source: DoRA (arXiv 2402.09353), equation 5, with the norm of the base weight below the line, as ComfyUI has it
(adapters/dora.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...spectral import flatten
from .lora import LoraStudent
from .model import Change, pair, scale_of, stored, usable_rank
from .registry import student

EPS = torch.finfo(torch.float32).eps


@student(name="dora", display="DoRA", paper="DoRA, arXiv 2402.09353")
class DoraStudent(LoraStudent):
    """Parameters of LoRA and ``magnitude`` (m,), which starts as the constant ``norm`` (m,) = ‖W‖ + ε: gain 1."""

    needs_base = True

    @classmethod
    def create(
        cls, weight_shape, rank, alpha, generator, *, weight=None, warm_start=None, device="cpu", dtype=torch.float32
    ) -> DoraStudent:
        assert weight is not None  # the registry has seen to that
        scale = scale_of(alpha, rank)
        up, down, error = pair(weight_shape, usable_rank(rank, weight_shape), scale, generator, warm_start)
        norm = torch.linalg.vector_norm(flatten(weight).float(), dim=1) + EPS
        return cls(
            weight_shape,
            scale,
            {"lora_up": up, "lora_down": down, "magnitude": norm},
            {"norm": norm},
            warm_start_error=error,
            device=device,
            dtype=dtype,
        )

    def change(self) -> Change:
        return super().change()._replace(gain=self.params["magnitude"] / self.fixed["norm"])

    def tensors(self) -> dict[str, Tensor]:
        magnitude = stored(self.params["magnitude"])
        return super().tensors() | {".dora_scale": magnitude.reshape(-1, *[1] * (len(self.shape) - 1))}
