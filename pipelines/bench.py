"""Where models compute: all of them on the device, or one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

ROOM = 0.6  # share of the device's free memory that the models may take all together


class Bench:
    """Puts models where they compute.

    device: where that is. one_at_a_time: whether what was there goes back to main memory first; None decides by size.
    """

    def __init__(self, device: torch.device | str = "cpu", one_at_a_time: bool | None = None):
        self.device, self.one_at_a_time = torch.device(device), one_at_a_time
        self.present: list[nn.Module] = []

    def decide(self, models: Sequence[nn.Module]) -> None:
        """Choose, where nobody has: one at a time if all together would not leave room to work."""
        if self.one_at_a_time is None:
            self.one_at_a_time = False
            if self.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(self.device)
                self.one_at_a_time = sum(size_of(model) for model in models) > ROOM * free

    def bring(self, *models: nn.Module) -> None:
        """Put models on the device."""
        if self.device.type == "cpu":
            return
        if self.one_at_a_time:
            for model in self.present:
                if model not in models:
                    model.to("cpu")
            self.present = [model for model in self.present if model in models]
        for model in models:
            if model not in self.present:
                model.to(self.device)
                self.present.append(model)


def size_of(model: nn.Module) -> int:
    """Bytes of a model's weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
