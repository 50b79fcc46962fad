"""Scales that live outside the tensors: PEFT keeps lora_alpha and rsLoRA in a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from math import sqrt
from typing import Any

import torch

from .dora import Dora
from .loha import Loha
from .lokr import Lokr
from .lora import Lora
from .metadata import config_alpha, peft_configs
from .module import ALPHA, AdapterModule


def scale_from_config(module: AdapterModule, configs: dict[str, dict[str, Any]]) -> float | None:
    """The scale PEFT's configuration gives: lora_alpha/r, or lora_alpha/√r for rsLoRA (arXiv 2312.03732, eq. 4).

    ``alpha_pattern`` is matched against the end of the module key as PEFT does. None when it gives none, or the
    module carries its own ``alpha``.
    """
    inner = module.inner if isinstance(module, Dora) else module
    if not isinstance(inner, (Lora, Loha, Lokr)) or module.alpha is not None:
        return None
    key = module.key.removeprefix("base_model.model.")
    prefix = max((p for p in configs if key.startswith(p)), key=len, default=None)
    if prefix is None:
        return None
    config = configs[prefix]
    rank, alpha = inner.rank or config.get("r") or 1, config_alpha(config)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            alpha = value
            break
    return None if alpha is None else float(alpha) / (sqrt(rank) if config.get("use_rslora") else rank)


def with_config_scales(modules: dict[str, AdapterModule], metadata: dict[str, str]) -> dict[str, AdapterModule]:
    """Modules that know the scale the metadata gives them."""
    configs = peft_configs(metadata)
    if not configs:
        return modules
    return {key: _with_config_scale(module, scale_from_config(module, configs)) for key, module in modules.items()}


def _with_config_scale(module: AdapterModule, scale: float | None) -> AdapterModule:
    inner = {"inner": replace(module.inner, config_scale=scale)} if isinstance(module, Dora) else {}
    return replace(module, config_scale=scale, **inner)


def agree(modules: Iterable[AdapterModule], metadata: dict[str, str]) -> bool:
    """Whether the metadata gives every module the scale that the module has from it."""
    configs = peft_configs(metadata)
    return all(scale_from_config(module, configs) == module.config_scale for module in modules)


def with_alpha(module: AdapterModule) -> AdapterModule:
    """The module with the scale that the metadata gives it as an ``alpha`` tensor; the same one where it gives none."""
    if module.config_scale is None or module.config_scale == 1.0 or module.alpha is not None:
        return module
    if isinstance(module, Dora):
        inner = with_alpha(module.inner)
        return replace(module, config_scale=None, tensors={**module.tensors, **inner.tensors}, inner=inner)
    if module.rank is None:  # LoKr with two full factors, which no alpha scales
        return replace(module.scaled(module.config_scale), config_scale=None)
    alpha = torch.tensor(module.config_scale * module.rank, dtype=torch.float32)
    return replace(module, config_scale=None, tensors={**module.tensors, ALPHA: alpha})
