"""Adapters as PEFT keeps them: a folder with ``adapter_model.safetensors`` and ``adapter_config.json``.

Rank and scale of every module are in the configuration, so a folder is written with one that is made for just these
modules. Whole weights (``modules_to_save``), biases and new tokens are among the adapter's extras.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterError
from ..io import folders, safetensors
from ..kernels.finite import all_finite
from ..untrusted import parse_json
from . import experts, rows
from .adapter import Adapter
from .dora import MAGNITUDES, Dora
from .loha import Loha
from .lokr import Lokr
from .lora import MID, PEFT, RESHAPE, Lora
from .metadata import PEFT_CONFIG, with_provenance, without_configs
from .module import ALPHA, AdapterModule
from .peft_config import CONFIG, PREFIX, WEIGHTS, PeftFolder, Scaled, check, lora_config, same_kind
from .scales import configured

EMBEDDING = (".lora_embedding_B", ".lora_embedding_A")
_KINDS = {"LOHA": Loha, "LOKR": Lokr}


def is_peft_folder(path: Path) -> bool:
    """Whether this is a folder with an adapter as PEFT writes it."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read_parts(folder: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str], str, dict[str, Any]]:
    """Tensors by file key, metadata with the configuration among it, the file's sha256, and the configuration.

    Raises:
        AdapterError: a file is missing or broken, or the adapter is of a kind that is not supported.
    """
    folder = Path(folder)
    weights, file = folder / WEIGHTS, folder / CONFIG
    if not weights.is_file():
        raise _no_adapter(folder)
    if not file.is_file():
        raise AdapterError(
            f"The folder has no {CONFIG}, which says how strongly the adapter acts",
            file=folder,
            hint=f"Copy it from where the adapter was trained, or give {WEIGHTS} itself to read it at scale 1.",
        )
    try:
        config = parse_json(file.read_bytes(), strict=True)
    except (OSError, ValueError) as problem:
        raise AdapterError(f"The adapter's configuration cannot be read: {problem}", file=file) from problem
    config = check(config, file)
    tensors, metadata, digest = safetensors.load(weights)
    tensors = {key: tensors[key] for key in sorted(tensors)}
    return tensors, metadata | {PEFT_CONFIG: json.dumps(config, sort_keys=True)}, digest, config


def _no_adapter(folder: Path) -> AdapterError:
    if (folder / "adapter_model.bin").is_file():
        return AdapterError(
            "The adapter in this folder is a pickle: opening one can run any code hidden in it, so it is refused",
            file=folder / "adapter_model.bin",
            hint="Load it in PEFT and call save_pretrained, which writes safetensors.",
        )
    inside = sorted(file.parent.name for file in folder.glob(f"*/{WEIGHTS}"))
    if inside:
        return AdapterError(
            f"The folder has no {WEIGHTS}; folders in it have one: {', '.join(inside[:5])}",
            file=folder,
            hint="Give one of those.",
        )
    if (folder / "config.json").is_file() or (folder / "model_index.json").is_file():
        return AdapterError(
            f"There is no adapter in this folder: it holds a model, and no {WEIGHTS}",
            file=folder,
            hint="Give it as a base (--source, --target or --base), not as the LoRA.",
        )
    return AdapterError(f"There is no PEFT adapter in this folder: it has no {WEIGHTS}", file=folder)


def with_folder(adapter: Adapter, config: dict[str, Any]) -> Adapter:
    """The adapter as read from a folder: fused experts one by one, and what only the configuration knows beside it."""
    names = {
        key.rpartition(".")[2]
        for key, module in adapter.modules.items()
        if isinstance(inner := module.inner if isinstance(module, Dora) else module, Lora)
        and inner.spelling[0].startswith(EMBEDDING[0])
    }
    modules = experts.split(adapter.modules, config)
    return replace(adapter, modules=modules, peft=PeftFolder(config, frozenset(modules), frozenset(names)))


def write_folder(
    adapter: Adapter,
    folder: str | os.PathLike,
    *,
    cast: Any,
    overwrite: bool = False,
    provenance: dict[str, Any] | None = None,
    changed: bool = True,
) -> Path:
    """Write an adapter with PEFT's keys as a folder that ``PeftModel.from_pretrained`` loads, whole or not at all.

    Args:
        cast: (tensor, key) -> the tensor in the dtype to write.
        overwrite: whether the folder may exist; its two files are replaced then, and others in it stay.

    Raises:
        AdapterError: a key that is none of PEFT's, or a module that PEFT has no form for; the folder exists; the disk
            is full. Nothing is left behind.
    """
    modules = dict(adapter.modules)
    strange = next((key for key in modules if not key.startswith(PREFIX)), None)
    if strange is not None or not modules:
        raise AdapterError(
            "Only an adapter with PEFT's key names can be written as a folder",
            file=folder,
            key=strange,
            hint="Choose the layout peft, or a name that ends in .safetensors.",
        )
    peft = adapter.peft
    kept = _same_kind(modules, peft)
    if kept is not None:
        tensors, config = kept
    else:
        tensors, config = _as_lora(modules, peft)
    config = _with_extras(config, adapter.extras)
    tensors = {key: cast(t, key) for key, t in (tensors | adapter.extras).items()}
    for key, tensor in tensors.items():
        if tensor.dtype.is_floating_point and not all_finite(tensor.float()):
            raise AdapterError(
                "The result has NaN or Inf inside and was not written",
                file=folder,
                key=key,
                hint="Values or strengths are too large for the arithmetic; lower them, or write fp32.",
            )
    metadata = {"format": "pt"} | with_provenance(without_configs(adapter.metadata), provenance, changed=changed)
    text = json.dumps(config, indent=2, sort_keys=True).encode()
    try:
        return folders.write_folder(
            folder, {WEIGHTS: safetensors.chunks(tensors, metadata), CONFIG: [text]}, overwrite=overwrite
        )
    except FileExistsError as problem:
        raise AdapterError(
            "The output folder exists already and was left alone",
            file=folder,
            hint="Choose another name, or allow overwriting.",
        ) from problem
    except OSError as problem:
        raise AdapterError(
            f"The folder cannot be written: {problem.strerror or problem}",
            file=folder,
            hint="Nothing was written. Does the folder above exist, is it writable, has it room?",
        ) from problem


def _same_kind(modules: Mapping[str, AdapterModule], peft: PeftFolder | None) -> tuple[dict, dict] | None:
    """Tensors and configuration of LoHa and LoKr that the folder's own configuration still describes, else None."""
    kind = _KINDS.get(str(peft.config.get("peft_type"))) if peft else None
    if peft is None or kind is None:
        return None
    if not all(type(m) is kind and m.config_scale is not None and ALPHA not in m.tensors for m in modules.values()):
        return None
    tensors = {key + suffix: tensor for key, m in modules.items() for suffix, tensor in m.tensors.items()}
    names = [key.removeprefix(PREFIX) for key in modules]
    return tensors, same_kind(peft, names, same_targets=modules.keys() == peft.keys)


def _as_lora(modules: dict[str, AdapterModule], peft: PeftFolder | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in PEFT's spelling, and the ``LoraConfig`` that goes with them."""
    own = peft.config if peft else {}
    fused = experts.fused_keys(modules, own)
    tensors, parameters = experts.join(fused) if fused else ({}, {})
    single = {key: _plain(module) for key, module in modules.items() if not experts.is_fused(key, own)}
    single = _uniform_experts(single)
    doras = [module for module in single.values() if isinstance(module, Dora)]
    others = [key for key, module in single.items() if not isinstance(module, Dora)] + [m.key for m in fused]
    if doras and others:
        doras[0].fail(
            f"Some modules are DoRA and others ({others[0]}) are not, which one PEFT adapter cannot be",
            hint="Give the base model, with which DoRA becomes a plain update, or convert them apart.",
        )
    embeddings = peft.embeddings if peft else frozenset()
    biased = any(module.bias() is not None for module in single.values())
    scaled: dict[str, Scaled] = {}
    for key, module in single.items():
        inner = module.inner if isinstance(module, Dora) else module
        assert isinstance(inner, Lora)
        as_embedding = key.rpartition(".")[2] in embeddings or inner.spelling[0].startswith(EMBEDDING[0])
        tensors |= {key + suffix: tensor for suffix, tensor in _spelled(inner, as_embedding, biased).items()}
        if isinstance(module, Dora):
            tensors[key + MAGNITUDES[0]] = module.tensors[module.suffix]
        name = key.removeprefix(PREFIX)
        one = Scaled(inner.rank, inner.scale())
        if _is_parameter(name, own):
            parameters[name + ".weight"] = one
        else:
            scaled[name] = one
    config = lora_config(
        peft,
        scaled,
        parameters,
        dora=bool(doras),
        lora_bias=biased,
        same_targets=peft is not None and modules.keys() == peft.keys and "target_modules" in own,
    )
    if all(configured(own, name) == one for name, one in (scaled | parameters).items()) and _lora(own):
        config = config | {field: own[field] for field in _SCALES if field in own}
    return tensors, config


_SCALES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")


def _lora(config: dict[str, Any]) -> bool:
    return config.get("peft_type") == "LORA"


def _plain(module: AdapterModule) -> AdapterModule:
    """A LoRA, or DoRA over one, for a module; AdapterError where PEFT's LoRA has no form for it."""
    if isinstance(module, Dora):
        inner = module.inner
        if module.suffix not in MAGNITUDES or not isinstance(inner, Lora) or MID in inner.tensors:
            module.fail(
                "PEFT's DoRA has no form for these magnitudes, which are divided by another norm",
                suffix=module.suffix,
                hint="Give the base model, with which DoRA becomes a plain update.",
            )
        return module
    if isinstance(module, Lora) and RESHAPE in module.tensors:
        module.fail("PEFT has no form for a LoRA that pads its weight", suffix=RESHAPE)
    if isinstance(module, Lora) and MID not in module.tensors:
        return module
    if isinstance(module, (Lora, Loha, Lokr)):
        return rows.plain(module)
    return module.fail(
        f"PEFT's LoRA has no form for a {module.kind} module",
        hint="Choose a name that ends in .safetensors, or turn the module into a plain update first.",
    )


def _spelled(module: Lora, embedding: bool, biased: bool) -> dict[str, Tensor]:
    """The module's tensors by PEFT's suffixes; every module has a bias where one has, for so ``lora_bias`` wants it."""
    up, down = module.factors()
    if embedding:
        if module.bias() is not None:
            module.fail("PEFT has no bias for an embedding")
        return {EMBEDDING[0]: down.T.contiguous(), EMBEDDING[1]: up.T.contiguous()}
    found = {PEFT[0]: up.contiguous(), PEFT[1]: down.contiguous()}
    bias, scale = module.bias(), module.scale()
    if bias is not None and scale == 0 and bool(bias.any()):
        module.fail("A change of the bias on a LoRA of scale 0 has no form in PEFT")
    if biased:
        value = torch.zeros(up.shape[0]) if bias is None or scale == 0 else bias / scale
        found[".lora_B.bias"] = value.to(up.dtype)
    return found


def _uniform_experts(modules: dict[str, AdapterModule]) -> dict[str, AdapterModule]:
    """The modules, those for single experts all of one rank and scale; PEFT stacks them when it loads them."""
    single = {k: m for k, m in modules.items() if ".experts." in k and isinstance(m, Lora)}
    forms = {(m.rank, m.scale()) for m in single.values()}
    if len(forms) < 2:
        return modules
    rank = max(rank for rank, _ in forms)
    return modules | {key: _padded(module, rank) for key, module in single.items()}


def _padded(module: Lora, rank: int) -> Lora:
    up, down = module.factors()
    wide, tall = up.new_zeros(up.shape[0], rank), down.new_zeros(rank, down.shape[1])
    wide[:, : up.shape[1]] = (up.float() * module.scale()).to(up.dtype)
    tall[: down.shape[0]] = down
    return Lora(module.key, {PEFT[0]: wide, PEFT[1]: tall}, file=module.file)


def _is_parameter(name: str, own: dict[str, Any]) -> bool:
    """Whether PEFT changes the module's weight as a parameter (a router)."""
    wanted = [str(one) for one in own.get("target_parameters") or () if str(one).endswith(".weight")]
    return any(f"{name}.weight" == one or f"{name}.weight".endswith("." + one) for one in wanted)


def _with_extras(config: dict[str, Any], extras: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration without what it says of whole weights, biases and tokens that are not there any more."""
    names = [key.removeprefix(PREFIX) for key in extras]
    saved = [one for one in config.get("modules_to_save") or () if any(f".{one}." in f".{name}" for name in names)]
    config = config | {"modules_to_save": saved or None} if config.get("modules_to_save") else config
    if config.get("bias", "none") != "none" and not any(name.endswith("bias") for name in names):
        config = config | {"bias": "none"}
    if config.get("trainable_token_indices") and not any("trainable_tokens" in name for name in names):
        config = config | {"trainable_token_indices": None}
    return config
