"""PEFT's ``adapter_config.json``: what of it is understood, and a new one that is true of the modules it describes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any, NamedTuple, TypeVar

from ..errors import AdapterError

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TYPES = ("LORA", "LOHA", "LOKR", "IA3")

_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
_DEFAULTS = {"LORA": {"r": 8, "lora_alpha": 8}, "LOHA": {"r": 8, "alpha": 8}, "LOKR": {"r": 8, "alpha": 8}, "IA3": {}}
_FORMS = {"target_parameters": list, "modules_to_save": list, "rank_pattern": dict, "alpha_pattern": dict, "bias": str}
# Fields of LoraConfig with which the adapter is more, or other, than ΔW = scale · B · A on the base as it is.
_OTHERWISE = {
    "alora_invocation_tokens": "Activated LoRA, which acts on some tokens only",
    "arrow_config": "an Arrow router over several adapters",
    "kasa_config": "KaSA, which changes the base's own weights too",
    "layer_replication": "a LoRA on replicated layers, which no base has",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QA-LoRA",
}
# Initialisations that take something out of the base's weights; PEFT does so again whenever it loads the adapter.
_MUTATING = ("pissa", "corda", "olora", "loftq", "lora_ga")
# Fields that only say how training began.
_TRAINING = ("corda_config", "eva_config", "loftq_config", "lora_ga_config", "velora_config")

Value = TypeVar("Value", bound=Hashable)


class Scaled(NamedTuple):
    """Rank and scale of a module's product of factors."""

    rank: int
    scale: float


@dataclass(frozen=True)
class PeftFolder:
    """What a PEFT folder says beside its tensors.

    config:     ``adapter_config.json`` as read.
    keys:       the module keys that it had.
    embeddings: last names of the modules that were stored as embeddings (``embed_tokens``).
    """

    config: dict[str, Any]
    keys: frozenset[str] = frozenset()
    embeddings: frozenset[str] = frozenset()

    def for_base(self, model: str) -> PeftFolder:
        """The same for another base model, which may have more modules of these names: targets are listed anew."""
        return PeftFolder(
            self.config | {"base_model_name_or_path": model, "revision": None}, frozenset(), self.embeddings
        )


def check(config: Any, file: object) -> dict[str, Any]:
    """The configuration with PEFT's defaults, if this project knows what an adapter with it does.

    Raises:
        AdapterError: another kind of adapter, or a LoRA that is more than a change of weights; both are named.
    """
    if not isinstance(config, dict):
        raise AdapterError("The adapter's configuration is not a table", file=file)
    kind = config.get("peft_type")
    if kind in _PROMPTS:
        raise AdapterError(
            f"This is PEFT's {kind}, which learns prompts and changes no weights", file=file, key="peft_type"
        )
    if kind not in TYPES:
        raise AdapterError(
            f"This is PEFT's {kind}, which is not supported"
            if kind
            else "The configuration does not say its peft_type",
            file=file,
            key="peft_type",
            hint=f"Read are {', '.join(TYPES)}.",
        )
    for field, form in _FORMS.items():
        value = config.get(field)
        if value is not None and (not isinstance(value, form) or form is list and not all(map(_is_text, value))):
            raise AdapterError(f"The configuration's {field} is not what PEFT writes", file=file, key=field)
    for field, name in _OTHERWISE.items():
        if config.get(field):
            raise AdapterError(f"This is {name}; it is not supported", file=file, key=field)
    start = str(config.get("init_lora_weights", "")).lower()
    if any(start.startswith(name) for name in _MUTATING):
        raise AdapterError(
            f"The LoRA was begun by {start}, which takes its first factors out of the base's weights: the file alone "
            "does not tell what it adds to the base",
            file=file,
            key="init_lora_weights",
            hint="Save it as an ordinary LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )
    return _DEFAULTS[kind] | config


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def lora_config(
    folder: PeftFolder | None,
    modules: Mapping[str, Scaled],
    parameters: Mapping[str, Scaled],
    *,
    dora: bool,
    lora_bias: bool,
    same_targets: bool,
) -> dict[str, Any]:
    """A ``LoraConfig`` under which PEFT gives every module its rank and its scale.

    rsLoRA's scales become plain ``lora_alpha``. What the folder says of other things (task, base, dropout, whole
    weights) stays.

    Args:
        modules, parameters: names in the model -> rank and scale; parameters are those in ``target_parameters``.
        same_targets: the folder's own ``target_modules`` and ``target_parameters`` still mean just these.
    """
    config: dict[str, Any] = dict(folder.config) if folder else {"task_type": None, "base_model_name_or_path": None}
    every = {**modules, **parameters}
    ranks = {name: one.rank for name, one in every.items()}
    alphas = {name: _alpha(one) for name, one in every.items()}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    config |= {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _patterns(ranks, rank),
        "alpha_pattern": _patterns(alphas, alpha),
        "use_rslora": False,
        "use_dora": dora,
        "lora_bias": lora_bias,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    config |= {field: {} if field == "loftq_config" else None for field in _TRAINING if config.get(field)}
    if parameters:
        config["lora_dropout"] = 0.0  # PEFT knows none on parameters
    if config.get("ensure_weight_tying") and any(name.rpartition(".")[2] == "lm_head" for name in modules):
        # PEFT would give the head the embedding's factors; here it has its own, and so must be a target by itself.
        config["ensure_weight_tying"], same_targets = False, False
    for field in ("alpha", "module_dropout", "decompose_both", "decompose_factor", "use_effective_conv2d"):
        config.pop(field, None)  # of LoHa and LoKr, which LoraConfig does not know
    return config if same_targets else _with_targets(config, modules, parameters)


def same_kind(folder: PeftFolder, names: Iterable[str], *, same_targets: bool) -> dict[str, Any]:
    """The folder's own configuration for some of its modules, whose ranks and scales it still gives."""
    return dict(folder.config) if same_targets else _with_targets(dict(folder.config), names, ())


def _with_targets(config: dict[str, Any], modules: Iterable[str], parameters: Iterable[str]) -> dict[str, Any]:
    config |= {"target_modules": sorted(modules), "exclude_modules": None}
    config |= {"layers_to_transform": None, "layers_pattern": None}
    if parameters or config.get("target_parameters"):
        config["target_parameters"] = sorted(parameters) or None
    return config


def _alpha(one: Scaled) -> int | float:
    alpha = one.scale * one.rank
    return round(alpha) if isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _commonest(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def _patterns(values: Mapping[str, Value], default: Value) -> dict[str, Value]:
    """The shortest ends of names that tell every value other than the default from all others."""
    by_end: dict[str, set[Value]] = {}
    for name, value in values.items():
        for end in _ends(name):
            by_end.setdefault(end, set()).add(value)
    found: dict[str, Value] = {}
    for name, value in values.items():
        if value != default:
            end = next((end for end in _ends(name) if len(by_end[end]) == 1), name)
            found[end] = value
    # A whole name that is the end of another one comes after it: PEFT takes the first that matches.
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _ends(name: str) -> Iterable[str]:
    """The ends of a dotted name, shortest first, itself last."""
    parts = name.split(".")
    return (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
