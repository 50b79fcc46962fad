"""What a new adapter does to pictures that the LoRAs are not for: both are watched on guard prompts.

Action here is :func:`moved`: 1 is the distance between pictures of unlike prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...adapters import Adapter
from ..progress import Progress
from .dataset import Dataset
from .denoiser import Denoiser, Drawing, Teacher, Trainee
from .effect import drawing_of
from .guard import guard_prompts, says
from .prompts import PromptSettings, Sources

GUARD_SEEDS = 2_000_000  # neither the teacher's nor the target's seeds of a dataset


@dataclass(frozen=True)
class Watch:
    """The guard prompts (n), how their pictures are drawn, and what the LoRAs do to them on the source.

    taught: (n,) action; of several LoRAs the largest.
    evaluations: forward passes of one sample spent on it.
    """

    prompts: list[str]
    drawing: Drawing
    seeds: list[int]
    taught: Tensor
    evaluations: int


@dataclass(frozen=True)
class SideEffects:
    """prompts (n); taught, learnt: (n,) action of the LoRAs on the source and of the new adapter on the target;
    before, after: latents (n, …) of the target without and with the new adapter."""

    prompts: list[str]
    taught: Tensor
    learnt: Tensor
    before: Tensor
    after: Tensor
    evaluations: int

    def rows(self) -> list[tuple[str, float, float]]:
        """(prompt, action of the LoRAs, action of the new adapter)."""
        return list(zip(self.prompts, self.taught.tolist(), self.learnt.tolist(), strict=True))


def watched_prompts(dataset: Dataset, adapters: Sequence[Adapter], count: int) -> list[str]:
    """Up to `count` guard prompts for these LoRAs, such as the dataset does not have where others can be made."""
    known = [Sources(PromptSettings(adapter=adapter), with_trigger=True) for adapter in adapters]
    words = list(dict.fromkeys(word for one in known for word in one.words))
    tags = {tag: n for one in known for tag, n in one.counts.items()}
    own, usual = set(dataset.prompts), max((one.usual for one in known), default=1.0)
    seeds = sorted(line for line in own if any(says(line, word) for word in words))
    found = guard_prompts(seeds, tags, words, count + len(own), dataset.info["seed"], usual)
    return sorted((line for line, _ in found), key=lambda line: line in own)[:count]


def moved(after: Tensor, before: Tensor) -> Tensor:
    """How far each picture moved, (n,): 1 is its distance to half of the other pictures.

    after, before: latents (n, …), n ≥ 1. Like :func:`kernels.distill.filter.action`, with a unit that strange prompts
    among the others do not stretch; a single picture is measured by its own norm times √2.
    """
    flat = before.double().flatten(1)
    far = torch.cdist(flat, flat)
    others = ~torch.eye(len(flat), dtype=torch.bool)
    unit = far[others].view(len(flat), -1).median(1).values if len(flat) > 1 else flat.norm(dim=1) * 2**0.5
    return ((after.double() - before.double()).flatten(1).norm(dim=1) / unit.clamp(min=1e-12)).float()


def watch(teacher: Teacher, dataset: Dataset, prompts: Sequence[str], tell: Progress) -> Watch:
    """See what the LoRAs do on these prompts, in half of the dataset's steps."""
    how = drawing_of(dataset)
    how = replace(how, steps=-(-how.steps // 2))
    seeds = [dataset.info["seed"] + GUARD_SEEDS + i for i in range(len(prompts))]
    plain = _draw(teacher.base, prompts, seeds, how, tell)
    acts = [moved(_draw(adapted, prompts, seeds, how, tell), plain) for adapted in teacher.adapted]
    spent = (1 + len(acts)) * len(prompts) * how.passes
    return Watch(list(prompts), how, seeds, torch.stack(acts).amax(0), spent)


def side_effects(seen: Watch, target: Denoiser, students: Mapping[str, Trainee], tell: Progress) -> SideEffects:
    """See what the new adapter does on the same prompts."""
    before = _draw(target, seen.prompts, seen.seeds, seen.drawing, tell)
    with target.training(students, checkpointing=False):
        after = _draw(target, seen.prompts, seen.seeds, seen.drawing, tell)
    spent = seen.evaluations + 2 * len(seen.prompts) * seen.drawing.passes
    return SideEffects(seen.prompts, seen.taught, moved(after, before), before, after, spent)


def _draw(model: Denoiser, prompts: Sequence[str], seeds: Sequence[int], how: Drawing, tell: Progress) -> Tensor:
    with torch.no_grad():
        return model.draw(prompts, seeds, how, tell).cpu()
