"""A base model's weights in a safetensors file, as float32: scaled fp8 is multiplied out."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from ..errors import BaseModelError
from .rounding import FLOATS
from .safetensors import TensorFile

_PLAIN = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_HINT = "Use the fp16, bf16 or fp8 version of this model."


class WeightFile(TensorFile):
    """See TensorFile; its errors are BaseModelErrors."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path, BaseModelError)

    def load(self, key: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor (or rows of it) as float32, multiplied by its fp8 scale when the file carries one.

        Raises:
            BaseModelError: quantised in a way that is not a plain scale.
        """
        entry = self.entries[key]
        if entry.dtype not in _PLAIN:
            message = f"The weight is stored as {entry.dtype}, which is not a plain floating-point format"
            raise BaseModelError(message, file=self.path, key=key, hint=_HINT)
        weight = self.tensor(key, rows).to(torch.float32)
        scale = self._scale(key)
        if scale is None:
            return weight
        if rows is not None and scale.numel() > 1:
            scale = scale[rows[0] : rows[0] + rows[1]]
        return weight.mul_(scale.reshape(-1, *[1] * (weight.ndim - 1)) if scale.numel() > 1 else scale.reshape(()))

    def storage(self, key: str) -> str:
        """How a tensor is stored, as ``rounding`` names it."""
        if self.entries[key].dtype.startswith("F8") and self.scale_keys(key):
            return "scaled fp8"
        return FLOATS.get(self.entries[key].dtype, "")

    def scale_keys(self, key: str) -> list[str]:
        """Names of the stored tensors that scale this one (ComfyUI's and the older scaled fp8)."""
        module = key.removesuffix(".weight")
        return [
            name
            for name in (f"{module}.weight_scale", f"{module}.scale_weight")
            if key.endswith(".weight") and name in self.entries
        ]

    def _scale(self, key: str) -> Tensor | None:
        names = self.scale_keys(key)
        if not names:
            return None
        entry = self.entries[names[0]]
        rows, count = self.entries[key].shape[0], math.prod(entry.shape)
        if entry.dtype not in ("F32", "F16", "BF16") or count not in (1, rows):
            message = "The weight is quantised in blocks, which cannot be read here"
            raise BaseModelError(message, file=self.path, key=key, hint=_HINT)
        return self.tensor(names[0]).flatten().float()
