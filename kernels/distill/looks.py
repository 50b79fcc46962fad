"""What pictures and latents look like in a few hundred numbers, where no vision model is at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 4  # on each side
SIDE = 64  # pixels


def cells(x: Tensor) -> Tensor:
    """Mean and standard deviation of each channel in 4 × 4 cells: (n, c, height, width) → (n, 32·c) float32.

    Of latents it says where which colours and shapes are and how busy each cell is, whatever the picture's size. Sides
    are 4 at least; further dimensions in the middle (frames) are averaged.
    """
    x = x.float()
    if x.ndim > 4:
        x = x.flatten(2, -3).mean(2)
    side = [max(CELLS, n) for n in x.shape[-2:]]
    if side != list(x.shape[-2:]):
        x = F.interpolate(x, side, mode="nearest")
    mean = F.adaptive_avg_pool2d(x, CELLS)
    square = F.adaptive_avg_pool2d(x.square(), CELLS)
    return torch.cat([mean, (square - mean.square()).clamp(min=0).sqrt()], 1).flatten(1)


def pixels(images: Tensor) -> Tensor:
    """:func:`cells` of colours and of edges across and along: images (n, 3, height, width) in [0, 1] → (n, 160)."""
    grey = images.float().mean(1, keepdim=True)
    across = F.pad(grey.diff(dim=3).abs(), (0, 1, 0, 0))
    along = F.pad(grey.diff(dim=2).abs(), (0, 0, 0, 1))
    return cells(torch.cat([images.float(), across, along], 1))


def small(height: int, width: int) -> tuple[int, int]:
    """The size, at most 64 pixels on the shorter side, at which pixels are compared.

    Scaling blurs, and a discriminator takes blur for a mark of the class that was scaled; at a small size both are.
    """
    factor = min(1.0, SIDE / min(height, width))
    return round(height * factor), round(width * factor)


def resized(images: Tensor, height: int, width: int, *, mode: str = "bilinear") -> Tensor:
    """Images (n, 3, …) scaled to cover height × width and cut to it at the centre; as they are where that fits.

    mode: of torch's interpolation; "bicubic" is sharper and may leave the range of the images a little.
    """
    high, wide = images.shape[-2:]
    if (high, wide) == (height, width):
        return images
    factor = max(height / high, width / wide)
    size = max(height, round(high * factor)), max(width, round(wide * factor))
    if size != (high, wide):
        images = F.interpolate(images.float(), size, mode=mode, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return images[..., top : top + height, left : left + width]
