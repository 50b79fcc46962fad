"""The one strength at which a moved adapter acts on the target as the original does on the source.

Both effects are differences of x̂₀ on the same noisy latents. The strength g minimises ‖E_target(g) − E_source‖ under
the weight of the learning loss; what is left of ‖E_source‖ then warns that no strength will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...adapters import Adapter
from ...errors import SettingsError
from ...kernels.distill.levels import velocity_weight
from ...version import __version__
from ..progress import Progress, silent
from ..text import joined, table
from .dataset import Dataset
from .denoiser import Denoiser, Teacher
from .noisy_latents import HELD_OUT, make_noisy_latents, predictions

MOST = 3.0  # largest strength tried
TRIES = 10
CLEAR, WEAK = 0.6, 0.9  # residuals; see Strength.advice


@dataclass
class Strength:
    """value: the strength. residual: ‖E_target − E_source‖ / ‖E_source‖ at it; at_one: the same at strength 1.

    tried: (strength, residual), in order. evaluations: forward passes of one sample.
    """

    value: float
    residual: float
    at_one: float
    tried: list[tuple[float, float]]
    evaluations: int
    source: str
    target: str

    def advice(self) -> str:
        """What the residual says, in plain words."""
        if self.residual <= CLEAR:
            return "The moved LoRA does on the target what the original does on the source."
        if self.residual <= WEAK:
            return (
                "The moved LoRA does part of what the original does. If the pictures show too little of it, distil "
                "the adapter, starting from this one."
            )
        return (
            "Warning: at no strength does the moved LoRA act as the original does. The bases are too far apart for "
            "weights to carry the effect; distil the adapter instead."
        )

    def to_markdown(self) -> str:
        """Sentences, then the tried strengths."""
        first = (
            f"Strength {self.value:.2f} makes the LoRA act on {self.target} most nearly as on {self.source}; "
            f"{self.residual:.0%} of the effect is then not met ({self.at_one:.0%} at strength 1)."
        )
        rows = [[f"{value:.3f}", f"{residual:.3f}"] for value, residual in sorted(self.tried)]
        return joined(
            [first, self.advice(), f"Network evaluations: {self.evaluations}.", table(("strength", "not met"), rows)]
        )

    def provenance(self, moved: Adapter, original: Adapter) -> dict[str, object]:
        """For the metadata of the moved adapter at this strength: the step, and what was compared."""
        return {
            "version": __version__,
            "job": "match_strength",
            "strength": self.value,
            "residual": self.residual,
            "adapter_sha256": moved.digest,
            "original_sha256": original.digest,
            "source": self.source,
            "target": self.target,
        }


def match_strength(
    teacher: Teacher,
    target: Denoiser,
    at: Callable[[float], Denoiser],
    dataset: Dataset,
    *,
    count: int = HELD_OUT,
    batch: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Strength:
    """Find the strength.

    Args:
        teacher: the source, and the source with the original adapter.
        at: strength → the target with the moved adapter at it.
        dataset: latents and prompts to compare on.
        count: noisy latents; each is put to every model once per try.

    Raises:
        SettingsError: the bases have different latent spaces, or the original does nothing.
    """
    from scipy.optimize import minimize_scalar

    if teacher.base.space != target.space:
        raise SettingsError(
            f"{teacher.base.label} has the latent space {teacher.base.space}, {target.label} {target.space}: their "
            "answers cannot be compared",
            hint="Distil the adapter with the objective 'samples' instead.",
        )
    tell = progress or silent
    training_set = make_noisy_latents(dataset, target, "difference", max(1, count - HELD_OUT), seed, [teacher.base])
    total, spent = (4 + TRIES) * len(training_set), 0
    scale = velocity_weight(training_set.sigma).sqrt()

    def ask(denoiser: Denoiser) -> Tensor:
        nonlocal spent
        done = min(spent, total - len(training_set))
        prediction = predictions(training_set, denoiser, batch, tell, done, total).flatten(1)
        spent += len(training_set)
        return prediction * scale[:, None]

    source_effect = ask(teacher.adapted[0]) - ask(teacher.base)
    size = float(source_effect.norm())
    if size == 0:
        raise SettingsError(
            "The original LoRA changes nothing on the source at this strength",
            hint="Check that it was made for this source, and its strength.",
        )
    untouched, tried = ask(target), {0.0: 1.0}

    def residual(strength: float) -> float:
        strength = round(float(strength), 3)
        if strength not in tried:
            tried[strength] = float((ask(at(strength)) - untouched - source_effect).norm()) / size
        return tried[strength]

    at_one = residual(1.0)
    minimize_scalar(residual, bounds=(0.0, MOST), method="bounded", options={"maxiter": TRIES - 2, "xatol": 0.02})
    best = min(tried, key=lambda strength: tried[strength])
    tell(total, total, "")
    return Strength(best, tried[best], at_one, list(tried.items()), spent, teacher.base.label, target.label)
