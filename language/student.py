"""The adapter that learns: PEFT's LoRA, DoRA or LoHa on the target, and what becomes of it in a file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..adapters import Adapter, from_state_dict
from ..adapters.metadata import PEFT_CONFIG
from ..adapters.peft_config import check
from ..adapters.peft_folder import with_folder
from ..bases import FileBase
from ..errors import SettingsError
from ..jobs.transfer.transfer import TransferSettings, transfer
from .decode import seeded
from .models import LanguageModel, with_adapter
from .settings import TextDistillation

_LEARNT = (".lora_", ".hada_")  # in the names of PEFT's parameters
_NAMES = {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa"}


@dataclass
class Student:
    """A target with an adapter on it that learns.

    parameters: by name, those that learn. rank: the largest. where: which layers have them, in words.
    """

    lm: LanguageModel
    parameters: dict[str, nn.Parameter]
    rank: int
    where: str
    notes: list[str]


def display(kind: str) -> str:
    """How reports call a kind."""
    return _NAMES[kind]


def begin(
    target: LanguageModel, settings: TextDistillation, adapter: Adapter | None, source: FileBase | None
) -> Student:
    """Put a new adapter on the target; at first it changes nothing, unless it begins as a copy.

    Args:
        adapter, source: what is to be taught, and its base; they say which layers learn.

    Raises:
        SettingsError: the copy is of another kind than the student.
        AdapterError: the copy does not fit the target.
    """
    if settings.start_from == "copy":
        return _copied(target, settings, adapter, source)
    from peft import LoHaConfig, LoraConfig, get_peft_model

    modules, where, notes = _modules(target, settings, adapter, source)
    alpha: Any = settings.rank if settings.alpha is None else settings.alpha  # PEFT takes fractions, too
    how: dict[str, Any] = dict(r=settings.rank, target_modules=modules, task_type="CAUSAL_LM")
    if settings.kind == "loha":
        config = LoHaConfig(alpha=alpha, **how)
    else:
        config = LoraConfig(lora_alpha=alpha, lora_dropout=0.0, use_dora=settings.kind == "dora", **how)
    with seeded(settings.training.seed, target.device), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between versions of the two libraries
        target.model = get_peft_model(target.model, config)
    target.model.eval()
    return Student(target, _learnt(target.model), settings.rank, where, notes)


def _copied(
    target: LanguageModel, settings: TextDistillation, adapter: Adapter | None, source: FileBase | None
) -> Student:
    if adapter is None or source is None:
        raise SettingsError("There is no adapter to begin with a copy of", hint="Leave out --start-from.")
    if set(adapter.kinds) != {settings.kind}:
        raise SettingsError(
            f"A copy begins as {' and '.join(adapter.kinds)}, and the student is to be {settings.kind}",
            hint="Choose that kind, or --start-from none.",
        )
    copied = transfer(adapter, source, target.base, TransferSettings(method="copy"))
    with_adapter(target, copied.adapter, trainable=True)
    notes = [] if copied.report.unmatched == [] else [f"{len(copied.report.unmatched)} modules have no weight there."]
    config = target.model.peft_config["default"]
    rank = max([config.r, *config.rank_pattern.values()])
    return Student(target, _learnt(target.model), rank, "those that the adapter changes.", notes)


def _modules(
    target: LanguageModel, settings: TextDistillation, adapter: Adapter | None, source: FileBase | None
) -> tuple[list[str] | str, str, list[str]]:
    """(PEFT's target_modules, the same in words, notes)."""
    every = "every linear layer but the head."
    if settings.modules == "linear" or adapter is None or source is None:
        return "all-linear", every, []
    wanted = roles(adapter, source)
    there = _linear_roles(target.model)
    if wanted and wanted <= there:
        return sorted(wanted), f"layers of the names that the adapter changes ({', '.join(sorted(wanted))}).", []
    lacking = ", ".join(sorted(wanted - there)) or "any linear layer"
    return "all-linear", every, [f"The target has no linear layers called {lacking}, so every linear layer learns."]


def roles(adapter: Adapter, source: FileBase) -> set[str]:
    """The last names of the weights that an adapter changes: ``q_proj``; embeddings and experts apart."""
    found = set()
    for key in adapter.modules:
        weight_slice = source.names.resolve(key)
        name = (weight_slice.name if weight_slice else key).removesuffix(".weight")
        if ".experts" not in name and not name.endswith(("embed_tokens", "wte", "shared")):
            found.add(name.rpartition(".")[2])
    return found


def _linear_roles(model: nn.Module) -> set[str]:
    kinds = ("Linear", "Conv1D", "Linear8bitLt", "Linear4bit")
    return {name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__ in kinds}


def _learnt(model: nn.Module) -> dict[str, nn.Parameter]:
    found = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(mark in name for mark in _LEARNT))
        if parameter.requires_grad:
            found[name] = parameter
    return found


@contextmanager
def checkpointed(model: Any, wanted: bool) -> Iterator[None]:
    """Learning that keeps only the inputs of blocks and computes the rest again; without dropout, as otherwise."""
    if not wanted:
        yield
        return
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()  # transformers checkpoints only then
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
        model.eval()


def exported(student: Student) -> Adapter:
    """The student as an adapter in PEFT's form.

    Raises:
        AdapterError: NaN or Inf inside.
    """
    from peft import get_peft_model_state_dict

    model = student.lm.model
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {key: tensor.detach().to("cpu", torch.float32).contiguous() for key, tensor in state.items()}
    raw = model.peft_config["default"].to_dict()
    raw["base_model_name_or_path"] = str(student.lm.base.path)
    raw["inference_mode"] = True
    config = check(json.loads(json.dumps(raw, default=_plain, sort_keys=True)), None)
    made = from_state_dict(tensors, metadata={PEFT_CONFIG: json.dumps(config, sort_keys=True)})
    return replace(with_folder(made, config), layout="peft")


def _plain(value: Any) -> Any:
    """What JSON cannot say of PEFT's configurations: sets, and words that are enums."""
    return sorted(value) if isinstance(value, (set, frozenset)) else getattr(value, "value", str(value))
