"""What a diffusion model is to distillation: something that names its weights, reads prompts, predicts, draws, learns.

``nodes`` gives a host's MODEL this face; the example family has its own, so that everything here runs without a host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ... import choices
from ...bases.model import Base
from ...kernels.distill.students import Change
from ..progress import Progress


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: what a sampler node says. Width and height in pixels; batch: pictures at a time."""

    width: int = choices.Drawing.width
    height: int = choices.Drawing.height
    steps: int = choices.Drawing.steps
    cfg: float = choices.Drawing.cfg
    sampler: str = choices.Drawing.sampler
    scheduler: str = choices.Drawing.scheduler
    negative: str = choices.Drawing.negative
    batch: int = choices.Drawing.batch

    @property
    def passes(self) -> int:
        """Forward passes for one picture."""
        return self.steps * (2 if self.cfg != 1 else 1)


class Trainee(Protocol):
    """What a weight's layer asks while it learns: a Student, or one that changes what a Student says."""

    def change(self) -> Change:
        """The change of the weight."""
        ...


class Denoiser(Protocol):
    """A diffusion model with its text encoder.

    label: short name for reports.
    base: its weights and their names, as transfer knows them.
    space: names the latent space; two models with the same one understand each other's latents.
    channels: of its latents.
    """

    label: str
    base: Base
    space: str
    channels: int

    def encode(self, prompts: Sequence[str]) -> list[Any]:
        """Conditioning of each prompt, to be handed to :meth:`predict`.

        Raises:
            SettingsError: there is no text encoder.
        """
        ...

    def sigmas(self, shares: Tensor) -> Tensor:
        """Sigmas (noise over signal, see kernels/distill/levels.py) at shares in (0, 1) of the model's schedule, 1
        being pure noise; its own limits are kept."""
        ...

    def inward(self, latents: Tensor) -> Tensor:
        """Latents (n, …) as a VAE gives them, in the scale of :meth:`predict`."""
        ...

    def predict(self, clean: Tensor, noise: Tensor, sigma: Tensor, conditions: Sequence[Any]) -> Tensor:
        """x̂₀ (n, …) from clean latents and unit noise (n, …) mixed at sigmas (n,); float32.

        Gradients flow to students inside :meth:`training`; the caller decides whether they are recorded. The result
        lies where the model works.
        """
        ...

    def loaded(self, shape: Sequence[int]) -> AbstractContextManager[None]:
        """Where predictions on batches of this shape happen: the model in place on the compute device."""
        ...

    def learnable(self) -> dict[str, tuple[int, ...]]:
        """Canonical name → shape of every weight of a linear layer or a two-dimensional convolution."""
        ...

    def training(self, students: Mapping[str, Trainee], *, checkpointing: bool) -> AbstractContextManager[None]:
        """Within it, predictions include the students' changes, by canonical name of their weight.

        checkpointing: keep only the inputs of blocks for the backward pass and compute the rest again.
        """
        ...

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], how: Drawing, progress: Progress) -> Tensor:
        """Latents (n, …) in a VAE's scale, one per prompt and seed; progress counts pictures."""
        ...


@dataclass
class Teacher:
    """The source base and the same base with each adapter on it at its strength."""

    base: Denoiser
    adapted: list[Denoiser]
