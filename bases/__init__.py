"""Base models: where their weights come from."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BaseModelError
from .diffusers import open_folder
from .file import FileBase
from .model import Base, load_weight_slice

__all__ = ["Base", "FileBase", "load_weight_slice", "open_base"]


def open_base(path: str | os.PathLike) -> FileBase:
    """A base model from a ``.safetensors`` or ``.gguf`` checkpoint, or a diffusers or transformers folder.

    Raises:
        BaseModelError: missing, a pickle, truncated, neither safetensors nor GGUF, or no model inside; names it.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise BaseModelError("The base model does not exist", file=path)
    return open_folder(path) if path.is_dir() else FileBase.open(path)
