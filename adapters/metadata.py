"""What an adapter's metadata says: trigger words, training tags, scales that live outside the tensors, provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
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
from .model import ALPHA, Adapter, AdapterModule

PREFIX = "lora_graft."
PEFT_CONFIG = PREFIX + "peft_config"
HISTORY = PREFIX + "history"
SOURCE = PREFIX + "source."
_CONFIGS = ("lora_adapter_metadata", PEFT_CONFIG)
_PARTS = ("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "prior")
_PHRASES = (
    "modelspec.trigger_phrase",
    "trigger_phrase",
    "trigger_word",
    "trigger_words",
    "trigger",
    "activation text",
    "ss_trigger_words",
    "instance_prompt",
)
_LONGEST = 1000  # characters of a module key that patterns are tried on
_REPEATED = re.compile(r"[*+{]|\\[1-9]|\(\?")  # what makes a regular expression try many ways
_COUNTABLE = 2**53  # images; beyond it, and for NaN, a count is made up
_HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def _json(text: str | None) -> Any:
    try:
        return parse_json(text) if text else None
    except ValueError:
        return None


def tags(metadata: dict[str, str]) -> dict[str, int]:
    """Training tags and counts summed over data sets (kohya's ``ss_tag_frequency``), most frequent first."""
    found: dict[str, int] = {}
    folders = _json(metadata.get("ss_tag_frequency"))
    for counts in folders.values() if isinstance(folders, dict) else ():
        for tag, count in counts.items() if isinstance(counts, dict) else ():
            if isinstance(count, (int, float)) and -_COUNTABLE < count < _COUNTABLE and tag.strip():
                found[tag.strip()] = found.get(tag.strip(), 0) + int(count)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def triggers(metadata: dict[str, str], most: int = 10) -> list[str]:
    """Trigger words, most telling first.

    Phrases that the metadata names as such; then class tokens of the data folders ("10_sks dog" -> "sks dog") that
    were really captions; then tags present in nearly every caption (at least 90 % of the most frequent one).
    """
    found: list[str] = []
    for name in _PHRASES:
        value = metadata.get(name, "")
        listed = _json(value)
        parts = listed if isinstance(listed, list) else re.split(r"[,;\n]", value)
        found += [str(part).strip() for part in parts]
    seen = tags(metadata)
    folders = _json(metadata.get("ss_dataset_dirs"))
    for folder in folders if isinstance(folders, dict) else ():
        token = re.sub(r"^\d+_", "", str(folder)).strip()
        found += [token] if token in seen else []
    top = next(iter(seen.values()), 0)
    found += [tag for tag, count in seen.items() if count >= 0.9 * top]
    return [word for word in dict.fromkeys(found) if word][:most]


def peft_configs(metadata: dict[str, str]) -> dict[str, dict[str, Any]]:
    """PEFT configurations by key prefix ("" or "unet." ...), from diffusers' and this project's metadata entries."""
    found: dict[str, dict[str, Any]] = {}
    for name in _CONFIGS:
        flat = _json(metadata.get(name))
        for key, value in flat.items() if isinstance(flat, dict) else ():
            part, dot, rest = key.partition(".")
            prefix = part + "." if dot and part in _PARTS else ""
            found.setdefault(prefix, {})[rest if prefix else key] = value
    return {prefix: config for prefix, config in found.items() if _alpha(config) is not None}


def _alpha(config: dict[str, Any]) -> float | None:
    """PEFT calls it ``lora_alpha`` for LoRA and ``alpha`` for LoHa and LoKr."""
    return config.get("lora_alpha", config.get("alpha"))


def told_scale(module: AdapterModule, configs: dict[str, dict[str, Any]]) -> float | None:
    """The scale PEFT's configuration gives: lora_alpha/r, or lora_alpha/√r for rsLoRA (arXiv 2312.03732, eq. 4).

    ``alpha_pattern`` is matched against the end of the module key as PEFT does. None when nothing is said, or the
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
    rank, alpha = inner.rank or config.get("r") or 1, _alpha(config)
    try:
        hit = _alpha_patterns(json.dumps(config.get("alpha_pattern") or {}))(key)
        rank, alpha = float(rank), float(alpha if hit is None else hit)
        if not (rank > 0 and isfinite(rank) and isfinite(alpha)):
            raise ValueError(f"alpha {alpha:g} and rank {rank:g}")
    except (ValueError, TypeError, OverflowError) as problem:
        module.fail(f"PEFT's configuration in the file gives no scale: {problem}")
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


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


def with_told_scales(modules: dict[str, AdapterModule], metadata: dict[str, str]) -> dict[str, AdapterModule]:
    """Modules that know the scale the metadata gives them."""
    configs = peft_configs(metadata)
    if not configs:
        return modules
    return {key: _telling(module, told_scale(module, configs)) for key, module in modules.items()}


def _telling(module: AdapterModule, scale: float | None) -> AdapterModule:
    inner = {"inner": replace(module.inner, told=scale)} if isinstance(module, Dora) else {}
    return replace(module, told=scale, **inner)


def settled(adapter: Adapter) -> Adapter:
    """The adapter with every scale that only its metadata tells written as an ``alpha`` tensor.

    ComfyUI ignores PEFT's configuration (rsLoRA, lora_alpha other than the rank); with alphas it applies such a file
    as it was trained. The configuration is dropped from the metadata: diffusers refuses both at once.
    """
    changed = {key: _with_alpha(module) for key, module in adapter.modules.items()}
    if all(changed[key] is module for key, module in adapter.modules.items()):
        return adapter
    return replace(adapter, modules=changed, metadata=without_configs(adapter.metadata))


def consistent(adapter: Adapter) -> Adapter:
    """The adapter unchanged when its metadata still tells the truth about every module's scale, else settled.

    A module made anew carries its whole scale in its factors; PEFT's configuration would scale it a second time.
    """
    configs = peft_configs(adapter.metadata)
    if all(told_scale(module, configs) == module.told for module in adapter.modules.values()):
        return adapter
    settled_one = settled(adapter)
    return replace(settled_one, metadata=without_configs(adapter.metadata))


def without_configs(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata without PEFT's configurations, whose scales the tensors now hold."""
    return {k: v for k, v in metadata.items() if k not in _CONFIGS}


def _with_alpha(module: AdapterModule) -> AdapterModule:
    if module.told is None or module.told == 1.0 or module.alpha is not None:
        return module
    if isinstance(module, Dora):
        inner = _with_alpha(module.inner)
        return replace(module, told=None, tensors={**module.tensors, **inner.tensors}, inner=inner)
    if module.rank is None:  # LoKr with two full factors, which no alpha scales
        return replace(module.scaled(module.told), told=None)
    alpha = torch.tensor(module.told * module.rank, dtype=torch.float32)
    return replace(module, told=None, tensors={**module.tensors, ALPHA: alpha})


def written(metadata: dict[str, str], provenance: dict[str, Any] | None, *, changed: bool) -> dict[str, str]:
    """Metadata to write: the file's own, plus provenance as strings under ``lora_graft.``.

    Hashes of the tensors that no longer hold (``changed``) are kept under ``lora_graft.source.`` instead. Provenance
    with a "job" is a step: its entries take the place of the step's before, and all steps stay in the history.
    """
    out = {str(k): str(v) for k, v in metadata.items()}
    if changed:
        for name in _HASHES:
            if name in out:
                out[SOURCE + name] = out.pop(name)
    provenance = dict(provenance or {})
    if "job" in provenance:
        provenance["history"] = [*history(out), dict(provenance)]
        out = without_history(out)
    for key, value in provenance.items():
        name = key if key.startswith(PREFIX) else PREFIX + key
        out[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return out


def history(metadata: dict[str, str]) -> list[dict[str, Any]]:
    """The steps (transfer, merge, resize …) that made a file, oldest first, each with its provenance."""
    steps = _json(metadata.get(HISTORY))
    if isinstance(steps, list):
        return [step for step in steps if isinstance(step, dict)]
    # A file from before the history was kept knows its last step alone.
    last = {
        key.removeprefix(PREFIX): value
        for key, value in metadata.items()
        if key.startswith(PREFIX) and not key.startswith(SOURCE) and key != PEFT_CONFIG
    }
    return [{k: _json(v) if v[:1] in "[{" else v for k, v in last.items()}] if "job" in last else []


def without_history(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata without the history and the entries of its last step."""
    steps = history(metadata)
    told = {HISTORY, *(PREFIX + key for key in (steps[-1] if steps else ()))}
    return {key: value for key, value in metadata.items() if key not in told}
