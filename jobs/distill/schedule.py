"""How fast to learn and in which order: the rate and the batch of every step, from (settings, step) alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import choices
from ...errors import SettingsError
from ...kernels.distill.students import Student

FINAL = 0.02  # the last rate, as a share of the highest
PEAK, MOST = 0.04, 0.01  # see learning_rate
SMALL = 14.0  # entries under 1/14 take smaller steps


@dataclass(frozen=True)
class Training:
    """How to learn.

    learning_rate: the highest; 0 chooses one from the number of weights.
    batch: noisy latents per forward pass. accumulation: passes per step.
    checkpointing: keep only the inputs of blocks for the backward pass and compute the rest again.

    Raises:
        SettingsError: a value out of range.
    """

    steps: int = choices.Learning.steps
    learning_rate: float = choices.Distill.learning_rate
    schedule: str = choices.Distill.schedule
    batch: int = choices.Distill.batch
    accumulation: int = choices.Learning.accumulation
    checkpointing: bool = False
    seed: int = choices.Distill.seed

    def __post_init__(self) -> None:
        if self.schedule not in choices.Distill.schedules:
            raise SettingsError(
                f"unknown schedule {self.schedule!r}", hint=f"Choose {', '.join(choices.Distill.schedules)}."
            )
        for name in ("steps", "batch", "accumulation"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.learning_rate >= 0 and math.isfinite(self.learning_rate)):
            raise SettingsError(f"the learning rate must not be negative, got {self.learning_rate}")


def learning_rate(students: Collection[Student], settings: Training) -> float:
    """The highest rate for these students: as set, or 0.04/√L, at most 0.01, times the factor of their kind.

    One step of every weight moves the answer about √L times as far as a step of one. The factor is measured on the
    example models (L = 15 weights; 25 to 100 steps of batch 32).
    """
    return settings.learning_rate or min(MOST, PEAK / math.sqrt(len(students))) * next(iter(students)).rate_factor


def share_of_peak(step: int, settings: Training) -> float:
    """Share of the highest rate at a step: a warm-up over a tenth of the steps, then the schedule."""
    warm = max(1, settings.steps // 10)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, settings.steps - warm)
    falling = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return FINAL + (1 - FINAL) * falling[settings.schedule]


def parameter_groups(params: Iterable[Tensor], rate: float) -> list[dict]:
    """Parameters for the optimizer, one group for each rate.

    Factors whose entries start small (about 1/√n in layers n wide) take steps that are small in the same measure, so
    that one rate serves every width.
    """
    found: dict[float, dict] = {}
    for value in params:
        size = float(value.detach().square().mean().sqrt())
        share = float(f"{min(1.0, SMALL * size):.2g}") if size > 0 else 1.0
        found.setdefault(share, {"params": [], "peak": rate * share})["params"].append(value)
    return list(found.values())


def batch_indices(count: int, number: int, settings: Training) -> Tensor:
    """Indices (batch,) of the noisy latents of one forward pass; every round through all `count` is a new random order.

    number: of the pass, from 0.
    """
    found: list[int] = []
    while len(found) < settings.batch:
        round_, position = divmod(number * settings.batch + len(found), count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + round_))
        found += order[position:].tolist()
    return torch.tensor(found[: settings.batch])
