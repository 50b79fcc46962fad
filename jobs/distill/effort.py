"""How much a distillation may cost, in one word: what it stands for, and what is set by itself instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...choices import Budget, Distill, Effort
from ...errors import SettingsError
from .schedule import Training

STEPS_MEASURED = 32  # noisy latents for one step, where the steps are set


@dataclass(frozen=True)
class Plan:
    """training, noisy_latents: what the effort and what was set come to; effort: in words, for the report."""

    training: Training
    noisy_latents: int | None
    effort: str


def planned(
    effort: str = Effort.effort,
    *,
    steps: int | None = Distill.steps,
    batch: int = Distill.batch,
    accumulation: int | None = Distill.accumulation,
    noisy_latents: int | None = Distill.noisy_latents,
    **training: Any,
) -> Plan:
    """How to learn: the effort's, but for what is set.

    steps that are set are no effort's any more: with them come as many noisy latents as they can use (at most 1024, see
    ``Distillation``), 32 for each step.

    batch: noisy latents at a time. accumulation: batches for one step; None for as many as make up what a step needs.
    training: more fields of ``Training``.

    Raises:
        SettingsError: no such effort, or a value out of range.
    """
    checked(effort)
    at_once = Budget.at_once[effort] if steps is None else STEPS_MEASURED
    chosen = Training(
        steps=Budget.steps[effort] if steps is None else steps,
        batch=batch,
        accumulation=max(1, at_once // max(batch, 1)) if accumulation is None else accumulation,
        **training,
    )
    own = {"steps": steps, "accumulation": accumulation, "noisy latents": noisy_latents}
    named = [name for name, value in own.items() if value is not None]
    if noisy_latents is None and steps is None:
        noisy_latents = Budget.noisy_latents[effort]
    words = f"{effort}, but for what was set by itself ({', '.join(named)})" if named else effort
    return Plan(chosen, noisy_latents, words)


def samples(effort: str, count: int | None = None) -> int:
    """How many samples to draw: as set, else the effort's.

    Raises:
        SettingsError: no such effort.
    """
    return Budget.samples[checked(effort)] if count is None else count


def checked(effort: str) -> str:
    """The effort.

    Raises:
        SettingsError: there is no such one.
    """
    if effort not in Effort.efforts:
        raise SettingsError(f"unknown effort {effort!r}", hint=f"Choose {', '.join(Effort.efforts)}.")
    return effort
