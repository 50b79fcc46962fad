"""What is learnt from: what the teacher drew with and without its LoRAs, what the target draws, and the prompts; or the
user's own pictures with their captions, which have no teacher.

A dataset is one safetensors file, so that drawing is done once. Its latents are in the scale a VAE gives and takes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import AdapterError, SettingsError
from ...io import safetensors
from ...kernels.finite import all_finite
from ...untrusted import parse_json

KIND = "lora_graft.dataset"
_HEADER = "said"  # its name in the digest, which files and checkpoints quote


@dataclass
class Dataset:
    """n samples of the teacher and m of the target; or n of the user's own pictures, which :attr:`has_teacher` tells.

    prompts: n; sample i of every part was drawn from prompts[i], or is described by it.
    taught: (n, C, h, w) source with its LoRAs, or the pictures.
    plain: (n, C, h, w) source alone, the same seeds; None without a teacher.
    target: (m, C, h, w) target alone, other seeds, m ≤ n; None when no target was given.
    acts: (n,) how strongly the LoRAs act on each sample, 1 = as far as between two unrelated seeds; None without a
        teacher.
    likeness: (n,) probability that a sample looks like the references; None without references.
    kept: (n,) bool, the samples that passed the filter.
    info: seeds, sampler, labels, spaces, ``lines`` (prompts it was made from, drawn or not); plain values.
    """

    prompts: list[str]
    taught: Tensor
    plain: Tensor | None
    target: Tensor | None
    acts: Tensor | None
    kept: Tensor
    likeness: Tensor | None = None
    info: dict = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of everything inside."""
        return safetensors.digest(self._tensors() | {_HEADER: _as_bytes(self._header())})

    @property
    def has_teacher(self) -> bool:
        """Whether a source with LoRAs drew it."""
        return self.plain is not None

    def kept_indices(self) -> list[int]:
        return self.kept.nonzero().flatten().tolist()

    def _tensors(self) -> dict[str, Tensor]:
        parts = {
            "taught": self.taught,
            "plain": self.plain,
            "target": self.target,
            "acts": self.acts,
            "likeness": self.likeness,
            "kept": self.kept,
        }
        return {name: tensor.contiguous() for name, tensor in parts.items() if tensor is not None}

    def _header(self) -> str:
        return json.dumps({"prompts": self.prompts, "info": self.info}, sort_keys=True, ensure_ascii=False)


def save(dataset: Dataset, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a dataset whole or not at all.

    Raises:
        AdapterError: the file exists, its folder does not, or the disk is full.
    """
    return safetensors.save(path, dataset._tensors(), {KIND: dataset._header()}, overwrite=overwrite)


def load(path: str | os.PathLike) -> Dataset:
    """Read a dataset.

    Raises:
        AdapterError: no such file, or not a dataset.
    """
    tensors, metadata, _ = safetensors.load(path)
    try:
        header = parse_json(metadata[KIND])
        found = Dataset(
            header["prompts"],
            tensors["taught"],
            tensors.get("plain"),
            tensors.get("target"),
            tensors.get("acts"),
            tensors["kept"],
            tensors.get("likeness"),
            header["info"],
        )
        _check(found)
        return found
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        raise AdapterError("This file is not a dataset of the Synthetic Dataset node", file=path) from problem


def _check(found: Dataset) -> None:
    """ValueError when the parts do not belong to as many samples of one shape, or are no numbers."""
    n, shape = len(found.prompts), found.taught.shape[1:]
    if (found.plain is None) != (found.acts is None):
        raise ValueError("teacher")
    scores = [score for score in (found.acts, found.kept, found.likeness) if score is not None]
    latents = [part for part in (found.taught, found.plain, found.target) if part is not None]
    target = 0 if found.target is None else len(found.target)
    if not isinstance(found.prompts, list) or not isinstance(found.info, dict):
        raise ValueError("prompts")
    lines = found.info.get("lines", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("lines")
    if n < 1 or not all(isinstance(line, str) for line in found.prompts) or target > n:
        raise ValueError("prompts")
    if any(score.shape != (n,) for score in scores) or found.kept.dtype != torch.bool:
        raise ValueError("scores")
    if (
        len(shape) < 2
        or len(found.taught) != n
        or (found.plain is not None and found.plain.shape != found.taught.shape)
    ):
        raise ValueError("latents")
    for values in [*scores, *latents]:
        if values is not found.kept and not (values.is_floating_point() and all_finite(values.float())):
            raise ValueError("numbers")


def require_samples(dataset: Dataset) -> list[int]:
    """The indices of the kept samples.

    Raises:
        SettingsError: none was kept; the scores and what to change are in the message.
    """
    kept = dataset.kept_indices()
    if kept:
        return kept
    acts = dataset.acts
    if acts is None:
        raise SettingsError("No picture of this dataset is kept", hint="Make it again with Picture Dataset.")
    scores = f"the LoRAs act on them at {acts.min():.3f} to {acts.max():.3f}, median {acts.median():.3f}"
    if dataset.likeness is not None:
        scores += f"; likeness to the references {dataset.likeness.min():.2f} to {dataset.likeness.max():.2f}"
    raise SettingsError(
        f"All {len(dataset.prompts)} samples were rejected: {scores}",
        hint="Lower the thresholds of the Synthetic Dataset node, raise the LoRA's strength, or give prompts (trigger "
        "words) that set it off.",
    )


def _as_bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
