"""Latent spaces: whether two models understand each other's latents, and the way through pictures if not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .bench import Bench
from .open import Opened

ALIKE = 0.1  # relative distance of two VAEs' latents of one picture, under which they count as one space
SIDE = 16  # of the trial picture, in latents


def spaces(source: Opened, target: Opened, bench: Bench) -> tuple[str, str]:
    """Names of both latent spaces: one name where the VAEs say the same of a picture, to within rounding.

    Fine-tuned decoders and VAEs made safe for fp16 share the space of their original, so weights are not compared.
    """
    names = (name_of(source), name_of(target))
    if names[0] != names[1] or source is target or source.vae is None or target.vae is None:
        return names
    picture = _trial(SIDE * source.pixels)
    first, second = (encoded(one, picture, bench) for one in (source, target))
    if first.shape == second.shape and float((first - second).norm() / first.norm().clamp(min=1e-12)) < ALIKE:
        return names
    return f"{names[0]}, the VAE of {source.label}", f"{names[1]}, the VAE of {target.label}"


def name_of(opened: Opened) -> str:
    """A latent space by its numbers."""
    shift = f", shift {opened.shift:g}" if opened.shift else ""
    return f"{opened.channels} channels, scale {opened.scale:g}{shift}, {opened.pixels} pixels"


def translation(source: Opened, target: Opened, bench: Bench) -> Callable[[Tensor], Tensor] | None:
    """Latents of the source's space → of the target's, through pictures; None where a VAE is missing."""
    if source.vae is None or target.vae is None:
        return None

    def translate(latents: Tensor) -> Tensor:
        return torch.cat([encoded(target, decoded(source, latent[None], bench), bench) for latent in latents])

    return translate


@torch.no_grad()
def encoded(opened: Opened, pictures: Tensor, bench: Bench) -> Tensor:
    """Latents (n, C, h, w) in the VAE's scale of pictures (n, 3, height, width) in [-1, 1]."""
    bench.bring(opened.vae)
    return opened.vae.encode(pictures.to(bench.device)).latent_dist.mode().float().cpu()


@torch.no_grad()
def decoded(opened: Opened, latents: Tensor, bench: Bench) -> Tensor:
    """Pictures (n, 3, height, width) in [-1, 1] of latents in the VAE's scale."""
    bench.bring(opened.vae)
    return opened.vae.decode(latents.to(bench.device)).sample.float().cpu().clamp(-1, 1)


def _trial(side: int) -> Tensor:
    """A picture (1, 3, side, side) with slopes, edges and fine stripes."""
    line = torch.linspace(-1, 1, side)
    down, across = torch.meshgrid(line, line, indexing="ij")
    parts = (across * 0.8, torch.sign(down - across) * 0.6, torch.sin(40 * across) * down)
    return torch.stack(parts)[None]
