"""Base models: where their weights come from and what those are called."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BaseModelError
from .describe import describe, items, stage
from .diffusers import open_folder
from .file import FileBase
from .guess import guess_architecture, told_architecture
from .guess_adapter import adapter_families, guess_adapter_architecture
from .model import Base, load_slot
from .names import KNOWN, Names, Slot, known_names, known_weights, names_for, style_of
from .recognise import names_of_adapters, serving

__all__ = [
    "KNOWN", "Base", "FileBase", "Names", "Slot", "adapter_families", "describe", "guess_adapter_architecture",
    "guess_architecture", "items", "known_names", "known_weights", "load_slot", "names_for", "names_of_adapters",
    "open_base", "serving", "stage", "style_of", "told_architecture",
]  # fmt: skip


def open_base(path: str | os.PathLike) -> FileBase:
    """A base model from a ``.safetensors`` checkpoint or a diffusers folder.

    Raises:
        BaseModelError: missing, a pickle, truncated, not safetensors, or no model inside; the file is named.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise BaseModelError("The base model does not exist", file=path)
    return open_folder(path) if path.is_dir() else FileBase.open(path)
