"""What an adapter's metadata says: trigger words, training tags, PEFT's configurations, provenance."""

from __future__ import annotations

import json
import re
from typing import Any

from ..untrusted import parse_json, real_text

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
    return {prefix: config for prefix, config in found.items() if config_alpha(config) is not None}


def config_alpha(config: dict[str, Any]) -> float | None:
    """PEFT calls it ``lora_alpha`` for LoRA and ``alpha`` for LoHa and LoKr."""
    return config.get("lora_alpha", config.get("alpha"))


def without_configs(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata without PEFT's configurations, whose scales the tensors now hold."""
    return {k: v for k, v in metadata.items() if k not in _CONFIGS}


def with_provenance(metadata: dict[str, str], provenance: dict[str, Any] | None, *, changed: bool) -> dict[str, str]:
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
        out[name] = real_text(value) if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
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
    known = {HISTORY, *(PREFIX + key for key in (steps[-1] if steps else ()))}
    return {key: value for key, value in metadata.items() if key not in known}
