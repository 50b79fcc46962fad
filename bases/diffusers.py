"""A base model as a diffusers folder, a language model's, or a folder of sharded safetensors."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import BaseModelError
from ..io.storage import open_weights
from ..io.weights import WeightFile
from ..names import DENOISER
from ..untrusted import parse_json
from .file import FileBase, Stored, stack
from .language import language_model, language_parts
from .layout import canonical_parts

_COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_WEIGHTS = ("diffusion_pytorch_model", "model")


def open_folder(path: str | Path) -> FileBase:
    """A folder with ``unet/`` or ``transformer/`` and ``text_encoder*/``, or with one model's files directly.

    Where a component holds several precisions (``….fp16.safetensors``), the one without a variant is read.

    Raises:
        BaseModelError: no safetensors model inside, or a file of it missing or broken.
    """
    path = Path(path)
    folders = [path / name for name in _COMPONENTS if (path / name).is_dir()] or [path]
    language = language_model(path) if folders == [path] else None
    stored: dict[str, Stored] = {}
    files: list[WeightFile] = []
    for folder in folders:
        shards = [open_weights(file) for file in _weight_files(folder)]
        where = {key: shard for shard in shards for key in shard.entries}
        shapes = {key: shape for shard in shards for key, shape in shard.shapes().items()}
        found = canonical_parts(shapes) if language is None else language_parts(shapes, language)
        for name, parts in found.items():
            if folder.name.startswith("text_encoder"):  # one that no family knows keeps its own names
                name = re.sub(rf"^{re.escape(DENOISER)}", f"{folder.name}.transformer.", name)
            stored.setdefault(name, stack(parts, shapes, where))
        files += shards
    if not files:
        pickled = any(file.suffix in (".bin", ".ckpt", ".pt") for folder in folders for file in folder.iterdir())
        hint = "Pickled models are refused; use the safetensors version." if pickled else None
        raise BaseModelError("The folder holds no safetensors model", file=path, hint=hint)
    return FileBase(path, stored, files)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one component: all shards of its index, or its single file."""
    indexes = sorted(folder.glob("*.safetensors.index*.json"), key=lambda file: (file.name.count("."), file.name))
    for index in indexes:
        try:
            names = sorted(set(parse_json(index.read_bytes())["weight_map"].values()))
            files = [folder / Path(name).name for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BaseModelError("The index of a sharded model cannot be read", file=index) from error
        return files
    found = sorted(folder.glob("*.safetensors"), key=lambda file: (file.name.count("."), file.name))
    stems = {file.name.split(".")[0]: file for file in reversed(found)}
    return next(([stems[stem]] for stem in _WEIGHTS if stem in stems), found[:1])
