"""Pictures in rows with labels: before and after, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import canvas

GAP, LEFT = 4, 150


def contact_sheet(rows: Sequence[tuple[str, np.ndarray]], *, tile: int | None = None) -> np.ndarray:
    """(height, width, 3) uint8.

    rows: (label, images (n, h, w, 3) in [0, 1]); a label may have line breaks, images may be of any size.
    tile: height of a picture in the sheet; None for their own, at least 64 and at most 192.
    """
    first = next((images[0] for _, images in rows if len(images)), np.zeros((64, 64, 3)))
    size = tile or min(max(first.shape[0], 64), 192)
    across = max(1, round(size * first.shape[1] / first.shape[0]))
    most = max((len(images) for _, images in rows), default=1)
    height, width = len(rows) * (size + GAP) + GAP, LEFT + max(most, 1) * (across + GAP)
    sheet = canvas.figure(width, height)
    for i, (label, _) in enumerate(rows):
        middle = 1 - (GAP + i * (size + GAP) + size / 2) / height
        words = "\n".join(canvas.printable(line) for line in label.split("\n"))
        sheet.text(8 / width, middle, words, va="center", **canvas.text_style(8))
    pixels = canvas.pixels(sheet)
    for i, (_, images) in enumerate(rows):
        top = GAP + i * (size + GAP)
        for j, image in enumerate(images):
            start = LEFT + j * (across + GAP)
            pixels[top : top + size, start : start + across] = _fitted(image, size, across)
    return pixels


def _fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (h, w, 3) in [0, 1] at another size: whole multiples repeat pixels, else area means or bilinear."""
    import torch
    import torch.nn.functional as F

    levels = (np.clip(np.nan_to_num(image), 0, 1) * 255).round()
    if height % image.shape[0] == 0 and width % image.shape[1] == 0:
        return levels.astype(np.uint8).repeat(height // image.shape[0], 0).repeat(width // image.shape[1], 1)
    smooth = torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1)[None]
    smaller = height < image.shape[0]
    mode, corners = ("area", None) if smaller else ("bilinear", False)
    return (
        F.interpolate(smooth, (height, width), mode=mode, align_corners=corners)[0]
        .permute(1, 2, 0)
        .round()
        .byte()
        .numpy()
    )
