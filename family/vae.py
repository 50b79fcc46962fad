"""The autoencoder: TAESD's layout with 16 latent channels, 8 x smaller each way; as plain functions over tensors.

Only some channels and the first block of each stage were trained; :func:`expand` pads them with zeros to the full
layout. A block whose weights are zero is a ReLU, and its input is never negative, so it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LATENT_CHANNELS = 16
FULL_WIDTH = 64
# One letter per entry of TAESD's nn.Sequential: c convolution, b block, s stride-2 convolution, u upsampling,
# r ReLU, k clamp. A capital B is a trained block.
ENCODER = "cBsBbbsBbbsBbbc"
DECODER = "kcrBbbucBbbucBbbucBc"
# Trained width after each of the trained entries' stages, from the picture to the latent.
WIDTHS = (16, 24, 40, 64)


def _block(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x
    for layer in (0, 2, 4):
        y = F.conv2d(y, weights[f"{name}.conv.{layer}.weight"], weights[f"{name}.conv.{layer}.bias"], padding=1)
        y = F.relu(y) if layer < 4 else y
    return F.relu(x + y)


def _run(weights: Mapping[str, Tensor], prefix: str, program: str, x: Tensor) -> Tensor:
    for position, kind in enumerate(program):
        name = f"{prefix}.{position}"
        if kind in "cs":
            stride = 2 if kind == "s" else 1
            x = F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), stride=stride, padding=1)
        elif kind == "u":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        elif kind == "r":
            x = F.relu(x)
        elif kind == "k":
            x = torch.tanh(x / 3) * 3
        elif f"{name}.conv.0.weight" in weights:
            x = _block(weights, name, x)
    return x


def encode(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Latents (n, 16, h/8, w/8) as the denoiser sees them, of images (n, 3, h, w) in [0, 1]."""
    return _run(weights, "taesd_encoder", ENCODER, images)


def decode(weights: Mapping[str, Tensor], latents: Tensor) -> Tensor:
    """Images (n, 3, 8h, 8w) in [0, 1] of the denoiser's latents (n, 16, h, w)."""
    return _run(weights, "taesd_decoder", DECODER, latents).clamp(0, 1)


def decode_raw(weights: Mapping[str, Tensor], latents: Tensor) -> Tensor:
    """:func:`decode` without the clamp, for training."""
    return _run(weights, "taesd_decoder", DECODER, latents)


def layout(widths: tuple[int, ...] = (FULL_WIDTH,) * 4, *, blocks: str = "B") -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by name; ``blocks="Bb"`` lists the untrained blocks too."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, into: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (out, into, 3, 3)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    for prefix, program, step, start in (("taesd_encoder", ENCODER, 1, 0), ("taesd_decoder", DECODER, -1, 3)):
        stage, last, upsampled = start, len(program) - 1, False
        for position, kind in enumerate(program):
            name = f"{prefix}.{position}"
            if kind == "u":
                upsampled = True
            if kind == "c" and position == last:
                conv(name, LATENT_CHANNELS if step == 1 else 3, widths[stage], True)
            elif kind in "cs":
                first = not (kind == "s" or upsampled)
                into = (3 if step == 1 else LATENT_CHANNELS) if first else widths[stage]
                stage += 0 if first else step
                conv(name, widths[stage], into, first)
                upsampled = False
            elif kind in blocks:
                for layer in (0, 2, 4):
                    conv(f"{name}.conv.{layer}", widths[stage], widths[stage], True)
    return shapes


def initial(generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights of the trained part (He's scale; a block's last convolution starts small)."""
    weights = {}
    for name, shape in layout(WIDTHS).items():
        if len(shape) == 1:
            weights[name] = torch.zeros(shape)
        else:
            scale = (2 / (shape[1] * 9)) ** 0.5 * (0.3 if name.endswith("conv.4.weight") else 1)
            weights[name] = torch.randn(shape, generator=generator) * scale
    return weights


def expand(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained part, zero-padded to the layout that loaders of TAESD expect.

    ``vae_scale`` and ``vae_shift`` undo the scaling that SD3's latent format applies, so that the encoder's output
    is what the denoiser sees.
    """
    full = {}
    for name, shape in layout(blocks="Bb").items():
        tensor = torch.zeros(shape, dtype=torch.float16)
        if name in weights:
            part = weights[name]
            tensor[tuple(slice(0, size) for size in part.shape)] = part.to(torch.float16)
        full[name] = tensor
    full["vae_scale"] = torch.tensor(1.5305)
    full["vae_shift"] = torch.tensor(0.0609)
    return full
