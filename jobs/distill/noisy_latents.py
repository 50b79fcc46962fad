"""The training set: noisy latents with what the student should predict, computed once, one model at a time.

A noisy latent is (clean latent, noise, sigma, prompt, target prediction x̂₀). With the objective ``difference`` the
target prediction is x̂₀_target + λ·Σ_i (x̂₀_source+LoRA_i − x̂₀_source): the effect of each LoRA on its own base, added to
what the target predicts by itself. ``output`` takes the teacher's prediction as it is; ``samples`` the clean latent
(plain diffusion loss), which needs no teacher where the samples are the user's own pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import SettingsError
from ...kernels.distill.levels import spread
from ...kernels.finite import all_finite
from .dataset import Dataset, require_samples
from .denoiser import Denoiser, Progress, Teacher

EMPTY = 0.1  # share of noisy latents without a prompt, for the side of guidance that has none
HELD_OUT = 32  # noisy latents never learnt from, to measure with
CROSSED = 0.5  # share of noisy latents with another prompt than their picture's
LINES = 64  # prompts at most that they take turns in


@dataclass
class NoisyLatents:
    """Noisy latents on the CPU. Tensors share their first dimension N; `latents` are the distinct clean ones.

    pick: of each, its clean latent. seeds: of its noise. sigma: its noise over signal.
    prompts: the distinct ones. prompt_index: of each, its prompt.
    target_prediction: x̂₀ that the student should predict.
    base_prediction: x̂₀ of the untouched student base; without it (objective ``samples``) the effect has no measure.
    control: those that show the source's own look, for ``samples``: the LoRA stays out of them.
    evaluations: forward passes spent per sample, by who predicted.
    """

    latents: Tensor
    pick: Tensor
    seeds: Tensor
    sigma: Tensor
    prompts: list[str]
    prompt_index: Tensor
    target_prediction: Tensor
    base_prediction: Tensor | None = None
    control: Tensor | None = None
    evaluations: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pick)

    def clean(self, which: Tensor) -> Tensor:
        """Clean latents (n, …) of some of them."""
        return self.latents[self.pick[which]]

    def noise(self, which: Tensor) -> Tensor:
        """Their unit noise (n, …), made from each one's seed."""
        shape = self.latents.shape[1:]
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(int(self.seeds[i]))) for i in which]
        )

    @property
    def has_effect(self) -> bool:
        """Whether there is an effect to measure, as a teacher's is."""
        return self.base_prediction is not None

    def effect(self) -> float:
        """RMS of what the target predictions add to the untouched base's, relative to the latter."""
        base = self.base_prediction
        return float((self.target_prediction - base).norm() / base.norm().clamp(min=1e-12)) if base is not None else 0.0


def make_noisy_latents(
    dataset: Dataset, student: Denoiser, objective: str, count: int, seed: int, limits: Sequence[Denoiser]
) -> NoisyLatents:
    """A training set whose target predictions are the clean latents; see :func:`set_target_predictions`.

    Where a teacher answers, half of the noisy latents have one of all the dataset's prompts, those for which no picture
    was drawn too, instead of their own picture's: what a prompt sets off is told from what a picture shows, and few
    pictures do.

    count: noisy latents to learn from; HELD_OUT more are added.
    limits: denoisers within whose range every sigma must lie.

    Raises:
        SettingsError: no sample was kept by the filter.
    """
    kept = require_samples(dataset)
    dice = torch.Generator().manual_seed(seed)
    parts, owners, control = [dataset.taught[kept]], list(kept), [False] * len(kept)
    if objective == "samples":
        if dataset.plain is not None:
            parts, owners = [*parts, dataset.plain[kept]], owners + kept
            control += [True] * len(kept)
    elif dataset.target is not None:
        parts.append(dataset.target)
        owners += list(range(len(dataset.target)))
        control += [False] * len(dataset.target)
    total = count + HELD_OUT
    latents = student.inward(torch.cat(parts).float())
    pick = torch.cat([torch.randperm(len(latents), generator=dice) for _ in range(-(-total // len(latents)))])[:total]
    sigma = student.sigmas(spread(total, dice))
    for other in limits:
        low, high = other.sigmas(torch.tensor([1e-6, 1 - 1e-6]))
        sigma = sigma.clamp(float(low), float(high))
    lines = [] if objective == "samples" else dataset.info.get("lines", dataset.prompts)[:LINES]
    prompts = list(dict.fromkeys(["", *dataset.prompts, *lines]))
    where = {line: i for i, line in enumerate(prompts)}
    prompt_index = torch.tensor([where[dataset.prompts[owners[i]]] for i in pick])
    if lines:
        own = torch.Generator().manual_seed(seed + 1)
        turns = torch.cat([torch.randperm(len(lines), generator=own) for _ in range(-(-total // len(lines)))])[:total]
        crossed = torch.tensor([where[lines[i]] for i in turns])
        prompt_index = torch.where(torch.rand(total, generator=own) < CROSSED, crossed, prompt_index)
    prompt_index[torch.rand(total, generator=dice) < EMPTY] = 0
    seeds = torch.randint(2**62, (total,), generator=dice)
    made = NoisyLatents(latents, pick, seeds, sigma, prompts, prompt_index, target_prediction=latents[pick])
    if any(control):
        made.control = torch.tensor(control)[pick]
    return made


def predictions(
    training_set: NoisyLatents, denoiser: Denoiser, batch: int, progress: Progress, done: int, total: int
) -> Tensor:
    """x̂₀ (N, …) of one model for every noisy latent, without gradients, float32 on the CPU.

    Raises:
        SettingsError: the model answers NaN or Inf.
    """
    conditions = denoiser.encode(training_set.prompts)
    parts = []
    with denoiser.loaded((batch, *training_set.latents.shape[1:])), torch.no_grad():
        for start in range(0, len(training_set), batch):
            progress(done + start, total, f"{denoiser.label} answers {start} of {len(training_set)}")
            which = torch.arange(start, min(start + batch, len(training_set)))
            conditioning = [conditions[i] for i in training_set.prompt_index[which]]
            prediction = denoiser.predict(
                training_set.clean(which), training_set.noise(which), training_set.sigma[which], conditioning
            )
            parts.append(prediction.float().cpu())
    joined = torch.cat(parts)
    if not all_finite(joined):
        raise SettingsError(f"{denoiser.label} answers NaN or Inf", hint="Load it in bf16 or fp32.")
    return joined


def set_target_predictions(
    training_set: NoisyLatents,
    teacher: Teacher,
    student: Denoiser,
    objective: str,
    strength: float,
    batch: int,
    progress: Progress,
) -> NoisyLatents:
    """The same training set with its target predictions, made with one model after the other.

    strength: λ, the factor on all effects together.
    """
    count = len(teacher.adapted)
    absolute = objective == "output" and count == 1  # then the teacher's prediction is the target, no difference
    everyone = [*teacher.adapted, *([] if absolute else [teacher.base]), student]
    total, found = len(everyone) * len(training_set), []
    for number, denoiser in enumerate(everyone):
        found.append(predictions(training_set, denoiser, batch, progress, number * len(training_set), total))
    training_set.base_prediction = found[-1]
    if absolute:
        training_set.target_prediction = found[0]
    else:
        origin = found[-1] if objective == "difference" else found[count]
        effects = torch.stack(found[:count]).sum(0) - count * found[count]
        training_set.target_prediction = origin + strength * effects
    training_set.evaluations = {"teacher": (len(everyone) - 1) * len(training_set), "target": len(training_set)}
    return training_set
