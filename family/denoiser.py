"""A base of the family as a Denoiser, so that distillation runs on it without a host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..adapters import Adapter
from ..bases import open_base
from ..kernels.distill import levels
from ..kernels.distill.students import Student
from . import materialize, model, sample, text

PREFIX = "diffusion_model."


class FamilyDenoiser:
    """Base ``name`` with adapters on it; see jobs/distill/denoiser.py.

    models: paths of :func:`materialize.materialize`.
    """

    def __init__(self, name: str, models: Mapping[str, Path], adapters: Sequence[tuple[Adapter, float]] = ()):
        self.label = f"family_{name}" + (" with LoRA" if adapters else "")
        self.base, self.space = open_base(models[f"family_{name}"]), materialize.space(name)
        self.autoencoder = materialize.autoencoder(name)
        self.channels = model.CHANNELS
        self.weights = materialize.base(name)
        for adapter, strength in adapters:
            self.weights = sample.patched(self.weights, adapter, strength)
        self.students: Mapping[str, Student] = {}

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        return [text.encode([prompt], strict=False)[0] if prompt else torch.zeros(text.WIDTH) for prompt in prompts]

    def sigmas(self, shares: Tensor) -> Tensor:
        return levels.sigma_of_flow(model.flow_shift(shares).clamp(1e-3, 0.999))

    def inward(self, latents: Tensor) -> Tensor:
        return latents

    def predict(self, clean: Tensor, noise: Tensor, sigma: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        noisy, time = levels.noised(clean, noise, sigma), levels.flow_of_sigma(sigma)
        velocity = model.forward(self._with_students(), noisy, 1000 * time, torch.stack(list(conditions)))
        return noisy - levels.along(time, noisy) * velocity

    def _with_students(self) -> dict[str, Tensor]:
        """The weights with the students' changes on them."""
        weights = dict(self.weights)
        for name, student in self.students.items():
            key, change = name.removeprefix(PREFIX), student.change()
            weight = weights[key] + (change.up @ change.down).view_as(weights[key])
            weights[key] = weight if change.gain is None else levels.along(change.gain, weight) * weight
        return weights

    @contextmanager
    def loaded(self, shape: Sequence[int]) -> Iterator[None]:
        yield

    def learnable(self) -> dict[str, tuple[int, ...]]:
        return {
            PREFIX + name: tuple(weight.shape)
            for name, weight in self.weights.items()
            if weight.ndim in (2, 4) and name.endswith(".weight")
        }

    @contextmanager
    def training(self, students: Mapping[str, Student], *, checkpointing: bool = False) -> Iterator[None]:
        self.students = students
        try:
            yield
        finally:
            self.students = {}

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], how, progress) -> Tensor:
        found, weights = [], self._with_students()
        for start in range(0, len(prompts), 64):
            progress(start, len(prompts), f"{self.label} draws")
            part = slice(start, start + 64)
            drawn = sample.latents(weights, prompts[part], seeds[part], steps=how.steps, cfg=how.cfg, strict=False)
            found.append(drawn)
        return torch.cat(found)
