"""What an adapter file is: format, likely base, modules, ranks, norms, and what its training left in the metadata."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import adapters, choices
from ..adapters.peft_config import WEIGHTS
from ..kernels.threads import one_thread
from ..names import guess_adapter_architecture
from ..names.keys import is_text_encoder, parse_key
from ..untrusted import one_line, real_text
from .loaders import unread
from .whole_weights import in_model

TOP_MODULES = 8

# Metadata that names the base: ModelSpec's, kohya's, then what PEFT and model sites write.
BASE_KEYS = (
    "modelspec.architecture",
    "ss_base_model_version",
    "ss_sd_model_name",
    "base_model",
    "baseModel",
    "base_model_name_or_path",
)

ENCODERS = {"te3": "text encoder 3 (T5)", "te2": "text encoder 2"}  # others are "text encoder"
# First match wins.
GROUPS = (
    ("UNet down", r"down_blocks|input_blocks"),
    ("UNet middle", r"mid_block|middle_block"),
    ("UNet up", r"up_blocks|output_blocks"),
    ("double blocks", r"double_blocks|(?<!single_)transformer_blocks"),
    ("single blocks", r"single_blocks|single_transformer_blocks"),
    ("joint blocks", r"joint_blocks"),
    ("refiner blocks", r"refiner"),
    ("layers", r"\b(?:blocks|layers)[._]\d+|[._](?:blocks|layers)[._]\d+"),
)
ROLES = (
    ("cross-attention", r"attn2|cross_attn"),
    ("attention", r"attn|attention|to_[qkv]\b|to_out|[qkv]_proj|qkv"),
    ("feed-forward", r"(?:\b|_)ff(?:\b|_)|mlp|feed_forward|fc[12]|gate_proj|up_proj|down_proj|linear[12]"),
    ("modulation", r"adaln|modulation|(?:\b|_)mod(?:\b|_)|norm.*linear"),
    ("projection", r"proj_in|proj_out"),
    ("embedding", r"emb"),
    ("convolution", r"conv|resnets|in_layers|out_layers|skip_connection|downsamplers|upsamplers|_op\b"),
    ("norm", r"norm"),
)


@dataclass
class Group:
    """The modules of one part of the model."""

    name: str
    modules: int = 0
    norm: float | None = None  # ‖ΔW‖_F over the whole group; None when no module's norm could be had
    ranks: dict[int, int] = field(default_factory=dict)


@dataclass
class Inspection:
    """All that an adapter file says without its base."""

    file: str | None
    size: int | None  # bytes
    digest: str  # sha256
    layout: str
    architecture: str
    base_hints: dict[str, str]  # metadata key → what it says about the base
    modules: int
    parameters: int
    kinds: dict[str, int]
    dtypes: dict[str, int]
    ranks: dict[int, int]  # rank → modules
    alphas: dict[float, int]  # alpha → modules
    no_alpha: int  # low-rank modules without one: their scale is 1
    groups: list[Group]
    roles: dict[str, int]
    norm: float | None
    top_modules: list[tuple[str, float]]  # (key, ‖ΔW‖_F), largest first
    needs_base: int  # modules whose ΔW, and so their norm, needs the base weight
    embeddings: list[str]  # names of textual-inversion vectors inside the file
    trigger_words: list[str]
    tags: list[tuple[str, int]]  # training tags, commonest first
    unknown_keys: list[str]
    unread: list[str]  # what other programs' loaders skip or misread
    metadata: dict[str, str]
    peft: dict[str, Any] = field(default_factory=dict)  # adapter_config.json, of a PEFT folder
    whole_weights: list[str] = field(default_factory=list)  # names of weights that it holds whole

    def to_json(self) -> str:
        """Everything, as JSON."""
        return real_text(json.dumps(asdict(self), indent=1, ensure_ascii=False))

    def to_text(self) -> str:
        """Everything worth reading, as plain lines."""
        return "\n".join(map(one_line, _lines(self))) + "\n"


def inspect(path: str | os.PathLike, *, top_tags: int = choices.Inspect.tags) -> Inspection:
    """Read an adapter file and say what it is.

    Raises:
        AdapterError: the file is missing, damaged, not safetensors, or no adapter.
    """
    return inspect_adapter(adapters.read(path), top_tags=top_tags)


@one_thread()
def inspect_adapter(adapter: adapters.Adapter, *, top_tags: int = choices.Inspect.tags) -> Inspection:
    """The same for an adapter that is already read."""
    modules = adapter.modules
    norms = {key: _norm(module) for key, module in modules.items()}
    known = {key: norm for key, norm in norms.items() if norm is not None}
    alphas = {key: m.alpha for key, m in modules.items() if m.alpha is not None}
    metadata = dict(adapter.metadata)
    tensors = [t for m in modules.values() for t in m.tensors.values()]
    return Inspection(
        file=str(adapter.file) if adapter.file else None,
        size=_size(adapter),
        digest=adapter.digest,
        layout=adapter.layout,
        architecture=guess_adapter_architecture({key: m.shape for key, m in modules.items()}),
        base_hints={key: metadata[key] for key in BASE_KEYS if metadata.get(key) not in (None, "", "None")},
        modules=len(modules),
        parameters=sum(t.numel() for t in tensors),
        kinds=_count(m.kind for m in modules.values()),
        dtypes=_count(str(t.dtype).removeprefix("torch.") for t in tensors if t.numel() > 1),
        ranks=dict(sorted(Counter(m.rank for m in modules.values() if m.rank is not None).items())),
        alphas=dict(sorted(Counter(alphas.values()).items())),
        no_alpha=sum(m.rank is not None and m.alpha is None and m.config_scale is None for m in modules.values()),
        groups=_groups(modules, norms),
        roles=_count(_first(ROLES, re.sub(r"attentions[._]\d+", "", key)) for key in modules),
        norm=_total(known.values()),
        top_modules=sorted(known.items(), key=lambda item: -item[1])[:TOP_MODULES],
        needs_base=sum(bool(m.needs_base) for m in modules.values()),
        embeddings=[name or "(unnamed)" for name in adapter.embeddings],
        trigger_words=adapter.triggers,
        tags=list(adapter.tags.items())[:top_tags],
        unknown_keys=sorted(key for key in adapter.extras if not (adapter.peft or _is_embedding(adapter, key))),
        unread=unread(adapter),
        metadata=metadata,
        peft=adapter.peft.config if adapter.peft else {},
        whole_weights=sorted(in_model(key) for key in adapter.extras) if adapter.peft else [],
    )


def _size(adapter: adapters.Adapter) -> int | None:
    """Bytes of the file, or of the tensors' file in a folder; None for what came from no file."""
    file = Path(adapter.file or "")
    file = file / WEIGHTS if adapter.peft else file
    return file.stat().st_size if adapter.file and file.is_file() else None


def _norm(module: adapters.AdapterModule) -> float | None:
    """‖ΔW‖_F at strength 1, or None when only the base weight could tell."""
    if module.needs_base:
        return None
    return module.norm()


def _is_embedding(adapter: adapters.Adapter, key: str) -> bool:
    return bool(replace(adapter, extras={key: adapter.extras[key]}).embeddings)


def _groups(modules: dict, norms: dict[str, float | None]) -> list[Group]:
    order = [*ENCODERS.values(), "text encoder", *(name for name, _ in GROUPS)]
    keys: dict[str, list[str]] = {}
    for key in modules:
        keys.setdefault(_group(key), []).append(key)
    return [
        Group(
            name=name,
            modules=len(keys[name]),
            norm=_total(norms[k] for k in keys[name]),
            ranks=dict(sorted(Counter(modules[k].rank for k in keys[name] if modules[k].rank is not None).items())),
        )
        for name in sorted(keys, key=lambda n: order.index(n) if n in order else len(order))
    ]


def _group(key: str) -> str:
    """The part of the model; text encoders by their prefix, as their layers are called like everybody's."""
    return ENCODERS.get(parse_key(key).part, "text encoder") if is_text_encoder(key) else _first(GROUPS, key)


def _first(table: tuple[tuple[str, str], ...], key: str) -> str:
    return next((name for name, pattern in table if re.search(pattern, key, re.IGNORECASE)), "other")


def _total(norms) -> float | None:
    known = [n for n in norms if n is not None]
    return sum(n * n for n in known) ** 0.5 if known else None


def _count(things) -> dict[str, int]:
    return dict(Counter(things).most_common())


def _lines(i: Inspection):
    if i.file:
        yield f"{Path(i.file).name}" + (f" ({i.size / 2**20:.1f} MB)" if i.size is not None else "")
    yield f"Layout: {i.layout}; kinds: {_tally(i.kinds)}; dtype: {_tally(i.dtypes)}"
    yield f"Looks like an adapter for: {i.architecture}"
    for key, value in i.base_hints.items():
        yield f"  {key}: {value}"
    if i.peft:
        yield f"PEFT: {_peft(i.peft)}"
    yield f"{i.modules} modules, {i.parameters:,} parameters"
    for group in i.groups:
        norm = f", norm {group.norm:.3g}" if group.norm is not None else ""
        ranks = f", rank {_span(group.ranks)}" if group.ranks else ""
        yield f"  {group.name}: {group.modules}{ranks}{norm}"
    yield f"Roles: {_tally(i.roles)}"
    if i.ranks:
        yield f"Ranks: {_tally(i.ranks)}"
        missing = f"; none on {i.no_alpha} (scale 1)" if i.no_alpha else ""
        yield f"Alphas: {_tally({f'{a:g}': n for a, n in i.alphas.items()}) or 'none'}{missing}"
    if i.norm is not None:
        yield f"Norm of the whole update: {i.norm:.4g}"
        yield "Strongest modules: " + ", ".join(f"{key} ({norm:.3g})" for key, norm in i.top_modules[:3])
    if i.needs_base:
        yield f"{i.needs_base} modules need their base weight before their update is known."
    if i.embeddings:
        yield "Textual-inversion vectors inside: " + ", ".join(i.embeddings)
    if i.trigger_words:
        yield "Trigger words: " + ", ".join(i.trigger_words)
    if i.tags:
        yield "Training tags: " + ", ".join(f"{tag} ({count})" for tag, count in i.tags)
    if i.whole_weights:
        shown = ", ".join(i.whole_weights[:5]) + (", …" if len(i.whole_weights) > 5 else "")
        yield f"{len(i.whole_weights)} weights held whole, not as a change: {shown}"
    if i.unknown_keys:
        shown = ", ".join(i.unknown_keys[:5]) + (", …" if len(i.unknown_keys) > 5 else "")
        yield f"{len(i.unknown_keys)} keys that no format explains (kept as they are): {shown}"
    yield from i.unread
    yield f"sha256: {i.digest}"


def _peft(config: dict[str, Any]) -> str:
    """What PEFT's configuration says of the whole adapter."""
    items = [str(config["peft_type"])]
    items += [f"{field} {config[field]}" for field in ("r", "lora_alpha", "alpha") if field in config]
    items += [f"{len(config[field])} in {field}" for field in ("rank_pattern", "alpha_pattern") if config.get(field)]
    items += [name for field, name in (("use_rslora", "rsLoRA"), ("use_dora", "DoRA")) if config.get(field)]
    items += [str(config["task_type"])] if config.get("task_type") else []
    return ", ".join(items) + (f"; base {base}" if (base := config.get("base_model_name_or_path")) else "")


def _tally(counts: dict) -> str:
    return ", ".join(f"{thing} × {count}" for thing, count in counts.items())


def _span(ranks: dict[int, int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}–{high}"
