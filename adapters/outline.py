"""An adapter by the header of its file: keys, shapes and metadata, without reading its weights."""

from __future__ import annotations

import math
import os

import torch

from ..io.safetensors import DTYPES, TensorFile
from .adapter import Adapter
from .files import parsed

SMALL = 8  # tensors of up to so many numbers are read: alphas, and shapes that a format keeps


def outline(path: str | os.PathLike) -> Adapter:
    """The adapter of a ``.safetensors`` file whose weights have no values.

    Formats, ranks, shapes, alphas and metadata are those of :func:`files.read`; norms and the digest are not.

    Raises:
        AdapterError: missing, truncated, not safetensors, a pickle, or nothing in it that is an adapter.
    """
    file = TensorFile(path)
    tensors = {
        key: file.tensor(key)
        if math.prod(entry.shape) <= SMALL
        else torch.empty(entry.shape, dtype=DTYPES.get(entry.dtype, torch.float32), device="meta")
        for key, entry in sorted(file.entries.items())
    }
    return parsed(tensors, file.metadata, str(path), "")
