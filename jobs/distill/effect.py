"""An adapter's strength on the target such that it moves pictures there as far as the LoRAs moved the source's.

What a student learns from noisy latents can overshoot in finished pictures when the target lies far from the source.
Distances are those of :func:`kernels.distill.filter.action`: 1 is the distance between two unrelated seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...errors import SettingsError
from ...kernels.distill.filter import action, apart
from ...kernels.distill.students import Change, Student
from ..progress import Progress
from .dataset import Dataset
from .denoiser import Denoiser, Drawing, Trainee
from .generate import TARGET_SEEDS

ROUNDS, LEAST, MOST = 2, 0.25, 4.0
PICTURES, SHOWN = 8, 4


class Scaled:
    """A student at another strength, as a LoRA loader would apply it."""

    def __init__(self, student: Student, strength: float):
        self.student, self.strength = student, strength

    def change(self) -> Change:
        change = self.student.change()
        if change.gain is not None:
            raise SettingsError(
                "DoRA cannot be scaled in its own form", hint="Switch match_effect off, or learn another kind."
            )
        return Change(change.up * self.strength, change.down)


def drawing_of(dataset: Dataset) -> Drawing:
    """How the dataset's pictures were drawn."""
    return Drawing(**dataset.info["drawing"])


def draw_again(target: Denoiser, dataset: Dataset, which: Sequence[int], progress: Progress) -> torch.Tensor:
    """Some pictures (n) of the dataset's target half once more, by the model as it is now: latents (n, …)."""
    seeds = [dataset.info["seed"] + TARGET_SEEDS + i for i in which]
    with torch.no_grad():
        return target.draw([dataset.prompts[i] for i in which], seeds, drawing_of(dataset), progress)


@dataclass(frozen=True)
class Shown:
    """rows: (prompt, action of the LoRAs on the source, of the new adapter on the target), of the prompts on which the
    LoRAs act most. spread: largest over least action of the LoRAs in the dataset. evaluations: forward passes."""

    rows: list[tuple[str, float, float]]
    spread: float
    evaluations: int


def shown(target: Denoiser, students: Mapping[str, Trainee], dataset: Dataset, progress: Progress) -> Shown | None:
    """What the effect comes to in finished pictures; None where the dataset has none of the target to compare with."""
    before, acts = dataset.target, dataset.acts
    if before is None or acts is None or len(before) < 2:
        return None
    known: dict[str, int] = {}
    for i in acts[: len(before)].argsort(descending=True).tolist():
        known.setdefault(dataset.prompts[i], i)
    which = list(known.values())[:SHOWN]
    with target.training(students, checkpointing=False):
        after = draw_again(target, dataset, which, progress)
    moved = (after.double().cpu() - before[which].double()).flatten(1).norm(dim=1) / apart(before)
    rows = [(dataset.prompts[i], float(acts[i]), float(far)) for i, far in zip(which, moved, strict=True)]
    return Shown(rows, float(acts.max() / acts.min().clamp(min=1e-6)), len(which) * drawing_of(dataset).passes)


def require_target(dataset: Dataset) -> torch.Tensor:
    """The dataset's pictures of the target, latents (m, …).

    Raises:
        SettingsError: it has none, or only one, or no teacher.
    """
    if not dataset.has_teacher:
        raise SettingsError(
            "Pictures without a teacher have no effect of LoRAs that could be matched", hint="Switch match_effect off."
        )
    if dataset.target is None or len(dataset.target) < 2:
        raise SettingsError(
            "Matching the effect compares pictures of the target, and the dataset has none",
            hint="Connect a target of the source's latent space to Synthetic Dataset, or switch match_effect off.",
        )
    return dataset.target


def matched_effect(
    students: Mapping[str, Student], target: Denoiser, dataset: Dataset, progress: Progress
) -> tuple[float, list[tuple[float, float]], float, int]:
    """(strength, [(strength, action on the target)], action wanted, forward passes of one sample).

    Raises:
        SettingsError: the dataset has no pictures of the target, or the students cannot be scaled.
    """
    before = require_target(dataset)[:PICTURES]
    count = len(before)
    assert dataset.acts is not None  # what has pictures of the target has a teacher
    wanted = float(dataset.acts[dataset.kept].median())
    strength, tried = 1.0, []
    for _ in range(ROUNDS):
        scaled = {name: Scaled(student, strength) for name, student in students.items()}
        with target.training(scaled, checkpointing=False):
            moved = draw_again(target, dataset, range(count), progress)
        acts = float(action(moved, before).median())
        tried.append((strength, acts))
        if acts <= 0:
            break
        strength = min(max(strength * wanted / acts, LEAST), MOST)
    return strength, tried, wanted, len(tried) * count * drawing_of(dataset).passes
