"""Compact files: matrices in 8 bits with one scale per row, everything else in fp16.

A quarter of the float32 size. The rounded values *are* the model: adapters are trained on them, and every figure is
measured with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..io import safetensors

CODES, SCALES = ".codes", ".scales"


def squeeze(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of two or more dimensions as int8 codes and an fp16 scale per row; vectors as fp16."""
    compact = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            compact[name] = weight.to(torch.float16)
            continue
        rows = weight.float().flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-7).to(torch.float16)
        compact[name + CODES] = (rows / scale.float()).round().clamp(-127, 127).to(torch.int8).view(weight.shape)
        compact[name + SCALES] = scale.squeeze(1)
    return compact


def unsqueeze(compact: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's float32 tensors, each exact in fp16."""
    weights = {}
    for name, tensor in compact.items():
        if name.endswith(CODES):
            stem = name.removesuffix(CODES)
            scale = compact[stem + SCALES].float().view(-1, *[1] * (tensor.dim() - 1))
            weights[stem] = (tensor.float() * scale).to(torch.float16).float()
        elif not name.endswith(SCALES):
            weights[name] = tensor.float()
    return weights


def rounded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a model becomes by being stored."""
    return unsqueeze(squeeze(weights))


def save(weights: Mapping[str, Tensor], path: Path) -> None:
    safetensors.save(path, squeeze(weights), overwrite=True)


def load(path: Path) -> dict[str, Tensor]:
    return unsqueeze(safetensors.load(path)[0])
