"""One door to a base model's files, however their weights are stored."""

from __future__ import annotations

import os

from .comfy_quant import METADATA, NOTE, ComfyQuantFile
from .gguf import GgufFile, is_gguf
from .quantised import MARKS, QuantisedFile
from .weights import WeightFile


def open_weights(path: str | os.PathLike) -> WeightFile:
    """A file of weights that are read as float32: safetensors (plain, scaled fp8, ComfyUI's quantised layouts,
    bitsandbytes' 4 and 8 bits) or GGUF.

    Raises:
        BaseModelError: missing, truncated, or of no such form; the file is named.
    """
    if is_gguf(path):
        return GgufFile(path)
    file = WeightFile(path)
    if METADATA in file.metadata or any(name.endswith(NOTE) for name in file.entries):
        return ComfyQuantFile(path)
    return QuantisedFile(path) if any(mark in name for name in file.entries for mark in MARKS) else file
