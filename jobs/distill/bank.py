"""The lessons: noisy latents with what the student should answer, computed once, one model at a time.

A lesson is (clean latent, noise, ratio ρ, prompt, goal x̂₀). With the objective ``difference`` the goal is
x̂₀_target + λ·Σ_i (x̂₀_source+LoRA_i − x̂₀_source): the effect of each LoRA on its own base, added to what the target
says by itself. ``output`` takes the teacher's answer as it is; ``samples`` the clean latent (plain diffusion loss).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import SettingsError
from ...kernels.distill.levels import spread
from ...kernels.finite import all_finite
from ..progress import Progress
from .dataset import Dataset, require_samples
from .denoiser import Denoiser

EMPTY = 0.1  # share of lessons without a prompt, for the side of guidance that has none
HELD_OUT = 32  # lessons never learnt from, to measure with


@dataclass
class Teacher:
    """The source base and the same base with each adapter on it at its strength."""

    base: Denoiser
    adapted: list[Denoiser]


@dataclass
class Bank:
    """Lessons on the CPU. Tensors share their first dimension N; `latents` are the distinct clean ones.

    own: x̂₀ of the untouched student base; without it (objective ``samples``) the effect has no measure.
    control: lessons on the source's own look, for ``samples``: the LoRA stays out of them.
    evaluations: forward passes spent per sample, by who answered.
    """

    latents: Tensor
    pick: Tensor
    seeds: Tensor
    ratio: Tensor
    prompts: list[str]
    asked: Tensor
    goal: Tensor
    own: Tensor | None = None
    control: Tensor | None = None
    evaluations: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pick)

    def clean(self, which: Tensor) -> Tensor:
        """Clean latents (n, …) of some lessons."""
        return self.latents[self.pick[which]]

    def noise(self, which: Tensor) -> Tensor:
        """Their unit noise (n, …), made from each lesson's seed."""
        shape = self.latents.shape[1:]
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(int(self.seeds[i]))) for i in which]
        )

    def effect(self) -> float:
        """RMS of what the goals add to the untouched answers, relative to these answers."""
        return float((self.goal - self.own).norm() / self.own.norm().clamp(min=1e-12)) if self.own is not None else 0.0


def lessons(
    dataset: Dataset, student: Denoiser, objective: str, count: int, seed: int, limits: Sequence[Denoiser]
) -> Bank:
    """A bank without goals.

    count: lessons to learn from; HELD_OUT more are added.
    limits: denoisers within whose range every ratio must lie.

    Raises:
        SettingsError: no sample was kept by the filter.
    """
    kept = require_samples(dataset)
    dice = torch.Generator().manual_seed(seed)
    parts, owners, control = [dataset.taught[kept]], list(kept), [False] * len(kept)
    if objective == "samples":
        parts, owners = [*parts, dataset.plain[kept]], owners + kept
        control += [True] * len(kept)
    elif dataset.target is not None:
        parts.append(dataset.target)
        owners += list(range(len(dataset.target)))
        control += [False] * len(dataset.target)
    total = count + HELD_OUT
    latents = student.inward(torch.cat(parts).float())
    pick = torch.cat([torch.randperm(len(latents), generator=dice) for _ in range(-(-total // len(latents)))])[:total]
    ratio = student.ratios(spread(total, dice))
    for other in limits:
        low, high = other.ratios(torch.tensor([1e-6, 1 - 1e-6]))
        ratio = ratio.clamp(float(low), float(high))
    prompts = list(dict.fromkeys(["", *dataset.prompts]))
    asked = torch.tensor([prompts.index(dataset.prompts[owners[i]]) for i in pick])
    asked[torch.rand(total, generator=dice) < EMPTY] = 0
    seeds = torch.randint(2**62, (total,), generator=dice)
    bank = Bank(latents, pick, seeds, ratio, prompts, asked, goal=latents[pick])
    if objective == "samples":
        bank.control = torch.tensor(control)[pick]
    return bank


def answers(bank: Bank, denoiser: Denoiser, batch: int, progress: Progress, done: int, total: int) -> Tensor:
    """x̂₀ (N, …) of one model for every lesson, without gradients, float32 on the CPU.

    Raises:
        SettingsError: the model answers NaN or Inf.
    """
    conditions = denoiser.encode(bank.prompts)
    found = []
    with denoiser.loaded((batch, *bank.latents.shape[1:])), torch.no_grad():
        for start in range(0, len(bank), batch):
            progress(done + start, total, f"{denoiser.label} answers {start} of {len(bank)}")
            which = torch.arange(start, min(start + batch, len(bank)))
            given = [conditions[i] for i in bank.asked[which]]
            found.append(denoiser.predict(bank.clean(which), bank.noise(which), bank.ratio[which], given).float().cpu())
    answer = torch.cat(found)
    if not all_finite(answer):
        raise SettingsError(f"{denoiser.label} answers NaN or Inf", hint="Load it in bf16 or fp32.")
    return answer


def fill(
    bank: Bank, teacher: Teacher, student: Denoiser, objective: str, strength: float, batch: int, progress: Progress
) -> Bank:
    """The goals of a bank, asked of one model after the other.

    strength: λ, the factor on all effects together.
    """
    count = len(teacher.adapted)
    absolute = objective == "output" and count == 1  # then the answer itself is the goal, without a difference
    everyone = [*teacher.adapted, *([] if absolute else [teacher.base]), student]
    total, said = len(everyone) * len(bank), []
    for place, denoiser in enumerate(everyone):
        said.append(answers(bank, denoiser, batch, progress, place * len(bank), total))
    bank.own = said[-1]
    if absolute:
        bank.goal = said[0]
    else:
        begin = bank.own if objective == "difference" else said[count]
        bank.goal = begin + strength * (torch.stack(said[:count]).sum(0) - count * said[count])
    bank.evaluations = {"teacher": (len(everyone) - 1) * len(bank), "target": len(bank)}
    return bank
