"""Scales that live outside the tensors: PEFT keeps lora_alpha and rsLoRA in a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from math import isfinite, sqrt
from typing import Any

import torch

from ..untrusted import one_line, parse_json
from .dora import Dora
from .loha import Loha
from .lokr import Lokr
from .lora import Lora
from .metadata import config_alpha, peft_configs
from .module import ALPHA, AdapterModule
from .peft_config import Scaled

_LONGEST = 1000  # characters of a module key that patterns are tried on
_REPEATED = re.compile(r"[*+{]|\\[1-9]|\(\?")  # what makes a regular expression try many ways


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
    try:
        hit = _alpha_patterns(json.dumps(config.get("alpha_pattern") or {}))(key)
        alpha = alpha if hit is None else hit
        if alpha is None:
            return None
        rank, alpha = float(rank), float(alpha)
        if not (rank > 0 and isfinite(rank) and isfinite(alpha)):
            raise ValueError(f"alpha {alpha:g} and rank {rank:g}")
    except (ValueError, TypeError, OverflowError) as problem:
        module.fail(f"PEFT's configuration in the file gives no scale: {problem}")
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def configured(config: dict[str, Any], name: str) -> Scaled | None:
    """Rank and scale that a ``LoraConfig`` gives a module of a model by its name; None where it gives none."""
    try:
        rank, alpha = _number(config, "r", "rank_pattern", name), _number(config, "lora_alpha", "alpha_pattern", name)
        scale = alpha / (sqrt(rank) if config.get("use_rslora") else rank)
        return Scaled(int(rank), scale) if isfinite(scale) else None
    except (KeyError, ValueError, TypeError, OverflowError, ZeroDivisionError):
        return None


def _number(config: dict[str, Any], field: str, patterns: str, name: str) -> float:
    own = _alpha_patterns(json.dumps(config.get(patterns) or {}))(name)
    return float(config[field] if own is None else own)


@lru_cache(maxsize=8)
def _alpha_patterns(text: str) -> Callable[[str], Any]:
    """The value of the first pattern that a module key ends with, or None, as a function of the key.

    Most patterns are names, for which a look at the key's ends does. Regular expressions are few and simple: one made
    for it can take for ever.

    Raises:
        ValueError: not a table, or a regular expression that is none, or none that may be tried.
    """
    table = parse_json(text)
    if not isinstance(table, dict):
        raise ValueError("alpha_pattern is not a table")
    names: dict[str, tuple[int, Any]] = {}
    expressions: list[tuple[int, re.Pattern, Any]] = []
    for number, (pattern, value) in enumerate(table.items()):
        if re.fullmatch(r"[\w\-.]*", pattern.replace("\\.", ".")):
            names[pattern.replace("\\.", ".")] = number, value
            continue
        if len(pattern) > 1000 or len(expressions) >= 100 or len(_REPEATED.findall(pattern)) > 1:
            raise ValueError(f"the pattern {one_line(pattern)[:100]} is too much of a regular expression")
        try:
            expressions.append((number, re.compile(rf"(.*\.)?({pattern})$"), value))
        except (re.error, RecursionError, OverflowError) as problem:
            raise ValueError(f"the pattern {one_line(pattern)[:100]} is no regular expression") from problem

    def value_of(key: str) -> Any:
        ends = [key[i:] for i in range(len(key)) if i == 0 or key[i - 1] == "."] if len(key) < _LONGEST else []
        hits = [names[end] for end in ends if end in names]
        hits += [(n, value) for n, e, value in expressions if len(key) < _LONGEST and e.match(key)]
        return min(hits, key=lambda hit: hit[0])[1] if hits else None

    return value_of


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


def with_scale_inside(module: AdapterModule) -> AdapterModule:
    """The module with the scale that the metadata gives it in a factor; the same one where it gives none.

    PEFT, and diffusers for a UNet, read no ``alpha`` tensor in a file of their own layout.
    """
    if module.config_scale is None or module.alpha is not None:
        return module
    if isinstance(module, Dora):
        inner = with_scale_inside(module.inner)
        return replace(module, config_scale=None, tensors={**module.tensors, **inner.tensors}, inner=inner)
    scaled = module if module.config_scale == 1.0 else module.scaled(module.config_scale)
    return replace(scaled, config_scale=None)
