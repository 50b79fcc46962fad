"""A discriminator that travels with a LoRA: trained where the LoRA was, it chooses synthetic samples anywhere.

One safetensors file holds the classifier and says what must look at the pictures it is to judge.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import AdapterError, SettingsError
from ...io import safetensors
from ...kernels.distill.discriminator import Linear, train
from ...kernels.finite import all_finite
from ...untrusted import parse_json

KIND = "lora_graft.discriminator"
KINDS = {"clip_vision": "a CLIP vision model", "latents": "a VAE's latents", "pixels": "the pixels alone"}
FEW = 5  # real pictures; with less the figures say little
HARDLY = 0.6  # cross-validated accuracy
_SAME_WEIGHTS = 0.02  # relative; bf16 rounds to 0.004
_VECTORS = ("mean", "scale", "weight")


@dataclass(frozen=True)
class Encoder:
    """What turns pictures into embeddings.

    kind: one of KINDS. size: numbers in an embedding.
    height, width: pixels that pictures are brought to before; 0 where the model does that itself.
    fingerprint: (k,) a sample of its weights; (0,) where it has none.
    """

    kind: str
    size: int
    height: int = 0
    width: int = 0
    fingerprint: Tensor = field(default_factory=lambda: torch.empty(0))

    def require(self, other: Encoder) -> None:
        """Check that `other` is what this one was.

        Raises:
            SettingsError: another kind, size or model.
        """
        if other.kind != self.kind:
            raise SettingsError(
                f"The discriminator looks through {KINDS[self.kind]}, not through {KINDS[other.kind]}",
                hint="Use what it was trained with, or train another one.",
            )
        if other.size != self.size:
            raise SettingsError(
                f"The discriminator was trained on embeddings of {self.size} numbers, and these have {other.size}",
                hint=f"Connect the model it was trained with ({KINDS[self.kind]}), or train another one.",
            )
        mine, theirs = self.fingerprint, other.fingerprint
        if mine.shape != theirs.shape or float((mine - theirs).norm()) > _SAME_WEIGHTS * float(mine.norm()):
            raise SettingsError(
                f"The discriminator was trained with {KINDS[self.kind]} of other weights: its answers would mean "
                "nothing",
                hint="Connect the very model it was trained with, or train another one.",
            )


@dataclass(frozen=True)
class Discriminator:
    """A trained discriminator.

    real, generated: pictures of each class that it was trained on.
    real_right, generated_right: the shares of them told right in cross-validation; real_right is None with a single
        real picture.
    lora, lora_digest: name and sha256 of the LoRA it belongs to; "" where none was named.
    """

    linear: Linear
    encoder: Encoder
    real: int
    generated: int
    real_right: float | None
    generated_right: float
    lora: str = ""
    lora_digest: str = ""

    @property
    def accuracy(self) -> float | None:
        """Cross-validated, both classes counting the same; None with a single real picture."""
        return None if self.real_right is None else (self.real_right + self.generated_right) / 2

    @property
    def name(self) -> str:
        whose = f" of {self.lora}" if self.lora else ""
        return f"the discriminator{whose}, trained on {self.real} real pictures"

    def likeness(self, embeddings: Tensor) -> Tensor:
        """Probability (n,) that embeddings (n, d) are of the real pictures' kind; 0.5 is where the classes part.

        Raises:
            SettingsError: embeddings of another size, or with NaN or Inf.
        """
        self.encoder.require(Encoder(self.encoder.kind, embeddings.shape[1], fingerprint=self.encoder.fingerprint))
        require_finite(embeddings, "samples")
        return self.linear.probability(embeddings)


def train_discriminator(
    real: Tensor,
    generated: Tensor,
    encoder: Encoder,
    *,
    lora: str = "",
    lora_digest: str = "",
) -> Discriminator:
    """A discriminator from embeddings (r, d) of real pictures and (g, d) of generated ones.

    The generated ones should be of the plain base, of other seeds and prompts than those it will judge: what they
    share with a sample counts against it.

    Raises:
        SettingsError: no real or fewer than two generated pictures, sizes that differ, NaN or Inf, or pictures that all
            look the same.
    """
    if len(real) < 1 or len(generated) < 2:
        raise SettingsError(
            f"A discriminator needs one real and two generated pictures at least, got {len(real)} and {len(generated)}",
            hint="Five to twenty real pictures and thirty generated ones do well.",
        )
    if real.shape[1] != generated.shape[1]:
        raise SettingsError(
            f"Real and generated pictures have embeddings of {real.shape[1]} and {generated.shape[1]} numbers",
            hint="Both must come from the same model.",
        )
    require_finite(real, "real pictures")
    require_finite(generated, "generated pictures")
    both = torch.cat([real, generated]).double()
    if bool(((both - both[0]).abs() <= 1e-6 * both.abs().amax(0)).all()):
        raise SettingsError(
            "All pictures look the same to the discriminator, so there is nothing to learn",
            hint="Are real and generated the same picture, or is the vision model damaged?",
        )
    linear, seen = train(real, generated)
    linear = Linear(*(getattr(linear, name).float().double() for name in _VECTORS), bias=_single(linear.bias))
    real_right = None if math.isnan(seen.real) else seen.real
    return Discriminator(
        linear, encoder, len(real), len(generated), real_right, seen.generated, lora=lora, lora_digest=lora_digest
    )


def require_finite(embeddings: Tensor, whose: str) -> None:
    """Raises SettingsError for NaN or Inf in embeddings."""
    if not all_finite(embeddings.float()):
        raise SettingsError(
            f"The embeddings of the {whose} have NaN or Inf in them",
            hint="Load the vision model or the VAE in fp32; a damaged file gives such numbers, too.",
        )


def expectation(real: int) -> str:
    """What so few real pictures can do, in a sentence; "" where there are enough."""
    if real == 1:
        return (
            "With one real picture nothing can be cross-validated: the threshold lets through what one generated "
            "picture in twenty passes. Expect it to see a strong effect and to miss a weak one; five pictures are "
            "much better."
        )
    if real < FEW:
        return (
            f"{real} real pictures are few: expect one or two of ten samples to be misjudged where the effect is not "
            "strong, and take the cross-validated figure for a guess. Five to twenty do well."
        )
    return ""


def report(found: Discriminator) -> str:
    """What was trained and how far to trust it, in Markdown."""
    looks = KINDS[found.encoder.kind]
    whose = f" for {found.lora}" if found.lora else ""
    lines = [
        f"A discriminator{whose} from {found.real} real and {found.generated} generated pictures, seen through {looks} "
        f"({found.encoder.size} numbers each)."
    ]
    if found.real_right is not None:
        lines.append(
            f"Cross-validated, on pictures it was not fitted to, it tells {found.real_right:.0%} of the real and "
            f"{found.generated_right:.0%} of the generated pictures right; guessing is 50 %."
        )
    if found.accuracy is not None and found.accuracy < HARDLY:
        lines.append(
            "It hardly tells them apart: real and generated pictures look alike to it, or the real ones show several "
            "things. As a filter it would choose at random."
        )
    lines += [line for line in (expectation(found.real),) if line]
    lines.append("Samples above a likeness of 0.5 are rather of the real pictures' kind.")
    return "\n\n".join(lines) + "\n"


def save(found: Discriminator, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a discriminator whole or not at all.

    Raises:
        AdapterError: the file exists, its folder does not, or the disk is full.
    """
    linear, encoder = found.linear, found.encoder
    tensors = {name: getattr(linear, name).float() for name in _VECTORS}
    tensors |= {"bias": torch.tensor([linear.bias]), "fingerprint": encoder.fingerprint.float()}
    header = {name: value for name, value in asdict(found).items() if name not in ("linear", "encoder")}
    header |= {"accuracy": found.accuracy}
    header["encoder"] = {name: getattr(encoder, name) for name in ("kind", "size", "height", "width")}
    return safetensors.save(path, tensors, {KIND: json.dumps(header, sort_keys=True)}, overwrite=overwrite)


def load(path: str | os.PathLike) -> Discriminator:
    """Read a discriminator.

    Raises:
        AdapterError: no such file, damaged, or not a discriminator.
    """
    tensors, metadata, _ = safetensors.load(path)
    if KIND not in metadata:
        raise AdapterError(
            "This file is not a discriminator", file=path, hint="Choose one that Train Discriminator wrote."
        )
    try:
        header = parse_json(metadata[KIND])
        encoder = Encoder(**header.pop("encoder"), fingerprint=tensors["fingerprint"].float())
        header.pop("accuracy")
        linear = Linear(*(tensors[name].double() for name in _VECTORS), bias=tensors["bias"].double().item())
        found = Discriminator(linear, encoder, **header)
        _check(found)
        return found
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        raise AdapterError(
            f"The discriminator is damaged: {problem}", file=path, hint="Copy it again, or train another one."
        ) from problem


def _check(found: Discriminator) -> None:
    """ValueError where the parts are not what :func:`save` writes."""
    encoder, linear = found.encoder, found.linear
    if encoder.kind not in KINDS or not all(_count(n) for n in (encoder.size, encoder.height, encoder.width)):
        raise ValueError("its header names no known encoder")
    if not (_count(found.real) and _count(found.generated) and found.real and found.generated):
        raise ValueError("its header does not say from how many pictures it is")
    if not all(isinstance(text, str) for text in (found.lora, found.lora_digest)):
        raise ValueError("its header names no LoRA as text")
    shares = [share for share in (found.real_right, found.generated_right) if share is not None]
    if found.generated_right is None or not all(isinstance(share, float | int) and 0 <= share <= 1 for share in shares):
        raise ValueError("its header has no shares between 0 and 1")
    for name in _VECTORS:
        if getattr(linear, name).shape != (encoder.size,) or not encoder.size:
            raise ValueError(f"{name} has not the {encoder.size} numbers of an embedding")
    numbers = [*(getattr(linear, name) for name in _VECTORS), encoder.fingerprint, torch.tensor([linear.bias])]
    if encoder.fingerprint.ndim != 1 or not all(all_finite(part) for part in numbers):
        raise ValueError("NaN or Inf inside")
    if not bool((linear.scale > 0).all()):
        raise ValueError("a scale is not positive")


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _single(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()
