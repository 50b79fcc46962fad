"""What concerns the files of a merge as wholes: number types, unknown keys, metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from ...adapters import Adapter
from ...adapters.metadata import without_configs
from ...untrusted import parse_json

DTYPES = {None: None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def widest(adapters: Sequence[Adapter]) -> torch.dtype:
    """The dtype that holds every factor without loss: fp16 and bf16 together, or 8-bit floats, make fp32."""
    found = {
        t.dtype
        for a in adapters
        for m in a.modules.values()
        for t in m.tensors.values()
        if t.dtype.is_floating_point and t.ndim > 0
    }
    widest = None
    for dtype in found:
        dtype = dtype if dtype.itemsize > 1 else torch.float32
        widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return torch.float32 if widest in (None, torch.float64) else widest


def joined_extras(adapters: Sequence[Adapter]) -> tuple[dict[str, Tensor], list[str]]:
    """Unknown tensors of all files; of two under one key the first stays, the key is returned if they differ."""
    found: dict[str, Tensor] = {}
    clashes = []
    for adapter in adapters:
        for key, tensor in adapter.extras.items():
            other = found.setdefault(key, tensor)
            if other is not tensor and not (other.shape == tensor.shape and torch.equal(other, tensor)):
                clashes.append(key)
    return found, clashes


def merged_metadata(adapters: Sequence[Adapter], totals: dict) -> dict[str, str]:
    """What the files agree on, their training tags and trigger phrases together, and the new rank."""
    found: dict[str, set[str]] = {}
    for adapter in adapters:
        for key, value in without_configs(adapter.metadata).items():
            found.setdefault(key, set()).add(value)
    out = {key: next(iter(values)) for key, values in found.items() if len(values) == 1}
    for key in ("ss_tag_frequency", "ss_dataset_dirs"):
        tables = [_table(adapter.metadata.get(key)) for adapter in adapters]
        if len(found.get(key, ())) > 1 and all(isinstance(t, dict) for t in tables if t is not None):
            out[key] = json.dumps(_united([t for t in tables if t is not None]), ensure_ascii=False)
    for key in ("modelspec.trigger_phrase", "ss_trigger_words"):
        if len(found.get(key, ())) > 1:
            out[key] = ", ".join(dict.fromkeys(a.metadata[key] for a in adapters if key in a.metadata))
    if "ss_network_module" in found and totals["rank_lowest"] is not None:
        same = totals["rank_lowest"] == totals["rank_highest"]
        out |= dict.fromkeys(("ss_network_dim", "ss_network_alpha"), str(totals["rank_highest"]) if same else "Dynamic")
    return out


def _table(text: str | None):
    try:
        found = parse_json(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _united(tables: list[dict]) -> dict:
    """The folders of all tables; of two with one name the second gets a number."""
    out: dict = {}
    for table in tables:
        for folder, content in table.items():
            name, number = folder, 2
            while name in out and out[name] != content:
                name, number = f"{folder} ({number})", number + 1
            out[name] = content
    return out
