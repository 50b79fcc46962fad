"""Draw with the family without a host: the same noise, schedule and guidance as a host's KSampler with ``euler`` and
``simple``, so that the same seed gives the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..adapters import Adapter
from . import model, text, vae

STEPS, CFG, LATENT = 10, 3.0, 8


def schedule(steps: int) -> Tensor:
    """Noise levels (steps + 1,) from 1 to 0: evenly spread, then SD3's shift of 3."""
    u = torch.tensor([(1000 - int(i * 1000 / steps)) / 1000 for i in range(steps)])
    return torch.cat([model.flow_shift(u), torch.zeros(1)])


def noise(seeds: Sequence[int]) -> Tensor:
    """Starting noise (n, 16, 8, 8), one seed per picture."""
    return torch.cat(
        [
            torch.randn(1, model.CHANNELS, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )


@torch.no_grad()
def latents(
    weights: Mapping[str, Tensor],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    cfg: float = CFG,
    forward: Callable[..., Tensor] = model.forward,
    strict: bool = True,
) -> Tensor:
    """Latents (n, 16, 8, 8) by Euler steps along the guided velocity, which is what ``forward`` answers.

    strict: whether strange words are refused, see text.tokens.
    """
    pooled = text.encode(prompts, strict=strict)
    x, levels = noise(seeds), schedule(steps)
    both = torch.cat([pooled, torch.zeros_like(pooled)])
    for level, following in zip(levels, levels[1:], strict=False):
        times = (level * 1000).expand(2 * len(x))
        towards, away = forward(weights, torch.cat([x, x]), times, both).chunk(2)
        x = x + (following - level) * (away + cfg * (towards - away))
    return x


def patched(weights: Mapping[str, Tensor], adapter: Adapter, strength: float = 1.0) -> dict[str, Tensor]:
    """The base with an adapter added to its weights: W + strength · ΔW.

    Args:
        weights: the denoiser by checkpoint names.
        adapter: any adapter whose modules name these weights in the kohya, ComfyUI or bare layout.
    """
    spelled = {}
    for name in weights:
        stem = name.removesuffix(".weight")
        spelled |= {f"lora_unet_{stem.replace('.', '_')}": name, f"diffusion_model.{stem}": name, stem: name}
    result = dict(weights)
    for key, module in adapter.modules.items():
        name = spelled[key]
        result[name] = result[name] + strength * module.delta(result[name]).view_as(result[name])
    return result


@torch.no_grad()
def sample(
    weights: Mapping[str, Tensor],
    autoencoder: Mapping[str, Tensor],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    adapters: Sequence[tuple[Adapter, float]] = (),
    steps: int = STEPS,
    cfg: float = CFG,
    progress: Callable[[], None] | None = None,
) -> Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1], one per prompt and seed.

    Args:
        weights, autoencoder: see :mod:`.materialize`.
        adapters: with their strengths, added in order.
        progress: called once per batch of at most 64; may raise to stop.
    """
    for adapter, strength in adapters:
        weights = patched(weights, adapter, strength)
    images = []
    for start in range(0, len(prompts), 64):
        part = slice(start, start + 64)
        images.append(vae.decode(autoencoder, latents(weights, prompts[part], seeds[part], steps=steps, cfg=cfg)))
        if progress is not None:
            progress()
    return torch.cat(images)
