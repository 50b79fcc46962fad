"""One alpha for a whole file, where that changes no update.

diffusers (0.42) gives every module of a UNet or CLIP in kohya's layout the commonest alpha of the file, each with its
own rank: modules with another alpha come out too strong or too weak there. ComfyUI and sd-scripts read any.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch

from .lora import KOHYA, Lora
from .module import ALPHA, AdapterModule

_UNET = re.compile(r"lora_unet_(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)_")


def uneven_alphas(modules: Mapping[str, AdapterModule]) -> dict[str, Lora]:
    """The LoRA modules of UNet and text encoders in kohya's layout whose alpha is not the commonest."""
    found = _read_by_diffusers(modules)
    common = _commonest(found)
    return {key: module for key, module in found.items() if module.alpha != common}


def with_one_alpha(modules: Mapping[str, AdapterModule]) -> dict[str, AdapterModule]:
    """The modules with one alpha, the commonest, for UNet and text encoders and the rest of the scale in ``up``.

    Unchanged where that would round the numbers of a short dtype; float32 is rounded to its last bit.
    """
    common = _commonest(_read_by_diffusers(modules))
    changed = {key: _with_alpha(module, common) for key, module in uneven_alphas(modules).items()}
    made = {key: module for key, module in changed.items() if module is not None}
    return {**modules, **made} if len(made) == len(changed) else dict(modules)


def _read_by_diffusers(modules: Mapping[str, AdapterModule]) -> dict[str, Lora]:
    unet = any(_UNET.match(key) for key in modules)
    read = ("lora_unet_", "lora_te") if unet else ("lora_te",)
    return {
        key: module
        for key, module in modules.items()
        if isinstance(module, Lora) and key.startswith(read) and module.spelling == KOHYA and module.alpha is not None
    }


def _commonest(modules: Mapping[str, Lora]) -> float | None:
    counts = Counter(module.alpha for module in modules.values())
    return counts.most_common(1)[0][0] if counts else None


def _with_alpha(module: Lora, alpha: float | None) -> Lora | None:
    """The module with this alpha and the same update; None where its dtype cannot hold that exactly."""
    if not alpha or module.alpha is None:
        return None
    up = module.tensors[KOHYA[0]]
    exact = up.float() * (module.alpha / alpha)
    scaled = exact.to(up.dtype)
    if not bool(torch.isfinite(scaled).all()) or not torch.equal(scaled.float(), exact):
        return None
    return replace(module, tensors={**module.tensors, KOHYA[0]: scaled, ALPHA: torch.tensor(alpha)})
