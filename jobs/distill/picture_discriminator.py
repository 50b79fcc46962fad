"""A discriminator from two folders of pictures, seen as pixels alone: no model is needed, and no host."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.distill.looks import pixels, resized, small
from ..progress import Progress, silent
from .discriminator import Discriminator, Encoder, train_discriminator
from .picture_files import open_folder, read_picture


def train_on_folders(
    real: str | os.PathLike,
    generated: str | os.PathLike,
    *,
    lora: str = "",
    lora_digest: str = "",
    progress: Progress | None = None,
) -> Discriminator:
    """A discriminator of the png, jpg and webp files in a folder against those in another.

    All are brought to the shape of the first generated one, 64 pixels high or wide; so will be the samples it judges.

    Raises:
        SettingsError: a folder without pictures, a picture that cannot be read, or see :func:`train_discriminator`.
    """
    tell, files = progress or silent, [open_folder(Path(folder)).pictures for folder in (real, generated)]
    first, total, done = read_picture(files[1][0]), sum(map(len, files)), 0
    height, width = small(*first.shape[:2])
    classes = []
    for group in files:
        rows: list[Tensor] = []
        for file in group:
            tell(done, total, file.name)
            image = read_picture(file).movedim(-1, 0)[None]
            rows.append(pixels(resized(image, height, width)))
            done += 1
        classes.append(torch.cat(rows))
    tell(total, total, "learning")
    encoder = Encoder("pixels", classes[1].shape[1], height, width)
    return train_discriminator(classes[0], classes[1], encoder, lora=lora, lora_digest=lora_digest)
