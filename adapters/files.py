"""From a file or state dict to an Adapter and back, without loss."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import choices
from ..errors import AdapterError, SettingsError
from ..io import safetensors
from ..kernels.finite import all_finite
from ..kernels.threads import one_thread
from ..names import Names
from ..untrusted import parse_json
from .adapter import Adapter, LoraState
from .convert import convert
from .dialects import translate
from .embeddings import embeddings
from .experts import is_fused
from .layouts import DTYPES, layout_of
from .lokr import W1, W2
from .metadata import PEFT_CONFIG, with_provenance
from .module import ALPHA
from .peft_folder import read_parts, with_folder, write_folder
from .registry import modules_of
from .scales import with_config_scales

_CHECKPOINT = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders.", "vae.")
_UNSUPPORTED = {
    ".oft_R": "PEFT's OFT",
    ".boft_R": "PEFT's BOFT",
    ".vera_lambda": "VeRA",
    ".lora_E": "AdaLoRA",
    ".hra_u": "HRA",
    ".fourierft": "FourierFT",
    ".ip_adapter": "an IP-Adapter",
    "to_k_ip": "an IP-Adapter",
}


@one_thread()
def read(path: str | os.PathLike) -> Adapter:
    """An adapter from a ``.safetensors`` file, or from a folder as PEFT writes it (:mod:`.peft_folder`).

    PEFT keeps rank scaling in ``adapter_config.json`` beside ``adapter_model.safetensors``; it is read too and kept
    in the metadata.

    Raises:
        AdapterError: naming file and key: missing, truncated, not safetensors, a pickle, NaN or Inf inside, half of a
            pair missing, zero or mismatched rank, nothing in it that is an adapter.
    """
    if Path(path).is_dir():
        tensors, metadata, digest, config = read_parts(path)
        return with_folder(_adapter(tensors, metadata, str(path), digest), config)
    tensors, metadata, digest = safetensors.load(path)
    tensors = {key: tensors[key] for key in sorted(tensors)}
    config = Path(path).with_name("adapter_config.json")
    if Path(path).name == "adapter_model.safetensors" and config.is_file() and PEFT_CONFIG not in metadata:
        try:
            metadata[PEFT_CONFIG] = json.dumps(parse_json(config.read_bytes(), strict=True), sort_keys=True)
        except (OSError, ValueError) as problem:
            raise AdapterError(f"The adapter's configuration cannot be read: {problem}", file=config) from problem
    return _adapter(tensors, metadata, str(path), digest)


@one_thread()
def from_state_dict(
    tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, file: str | None = None
) -> Adapter:
    """An adapter from tensors in memory, e.g. ComfyUI's LORA_MODEL. A LoraState brings its own metadata and path.

    Raises:
        AdapterError: as :func:`read`, for what can be wrong with tensors.
    """
    metadata = dict(getattr(tensors, "metadata", None) or {}) if metadata is None else dict(metadata)
    file = file or getattr(tensors, "file", None)
    kept = dict(tensors)
    return _adapter(kept, metadata, file, getattr(tensors, "digest", "") or safetensors.digest(kept))


def _adapter(tensors: dict[str, Tensor], metadata: dict[str, str], file: str | None, digest: str) -> Adapter:
    _finite(tensors, file)
    return parsed(tensors, metadata, file, digest)


def parsed(tensors: dict[str, Tensor], metadata: dict[str, str], file: str | None, digest: str) -> Adapter:
    """The adapter in tensors whose values nobody looks at.

    Raises:
        AdapterError: as :func:`read`, but for NaN and Inf.
    """
    if not tensors:
        raise AdapterError("The file holds no tensors", file=file)
    try:
        ours, aliases = translate(tensors)
    except AdapterError as problem:
        raise AdapterError(problem.what, file=file, key=problem.key, hint=problem.hint) from problem
    modules, extras = modules_of(ours, file)
    if not modules:
        raise _not_an_adapter(extras, metadata, file)
    layout = layout_of(tensors if aliases else modules)
    return Adapter(with_config_scales(modules, metadata), extras, metadata, layout, file, digest, aliases)


def _finite(tensors: dict[str, Tensor], file: str | None) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype.is_complex:
            raise AdapterError("The tensor holds complex numbers, which no adapter does", file=file, key=key)
        if not tensor.dtype.is_floating_point or _unused_alpha(key, tensors):
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor
        if not all_finite(values):
            what = "NaN" if bool(torch.isnan(values).any()) else "Inf"
            raise AdapterError(
                f"The tensor has {what} inside",
                file=file,
                key=key,
                hint="The training diverged or the file is damaged; there is nothing to save in it.",
            )


def _unused_alpha(key: str, tensors: dict[str, Tensor]) -> bool:
    """Whether this is the alpha of a LoKr with two full factors: it means nothing and often overflows fp16."""
    name = key.removesuffix(ALPHA)
    return name != key and name + W1 in tensors and name + W2 in tensors


def _not_an_adapter(extras: dict[str, Tensor], metadata: dict[str, str], file: str | None) -> AdapterError:
    """The error for a file without a single module, saying what it looks like instead."""
    first = next(iter(extras))
    if embeddings(extras, metadata):
        return AdapterError(
            "This is a textual-inversion embedding, not an adapter",
            file=file,
            key=first,
            hint="Put it into models/embeddings and name it in the prompt.",
        )
    for mark, name in _UNSUPPORTED.items():
        key = next((k for k in extras if mark in k), None)
        if key:
            return AdapterError(
                f"This looks like {name}, which is not supported",
                file=file,
                key=key,
                hint="Its update cannot be written as a change of single weights that ComfyUI loads.",
            )
    plain = sum(key.endswith((".weight", ".bias", ".scale")) for key in extras)
    if any(key.startswith(_CHECKPOINT) for key in extras) or plain > 0.8 * len(extras):
        return AdapterError(
            "There is no adapter in this file: it looks like a full model checkpoint",
            file=file,
            key=first,
            hint="Give it as a base (--source or --target), not as the LoRA.",
        )
    return AdapterError("There is no adapter in this file: none of its keys is of a known format", file=file, key=first)


@one_thread()
def to_state_dict(
    adapter: Adapter, dtype: str | None = None, layout: str = "same", names: Names | None = None
) -> LoraState:
    """The adapter's tensors under the keys of a layout.

    With layout "same" and no dtype these are the very tensors that were read, under the same keys; only such have the
    adapter's digest.

    Args:
        dtype: None or "same" (as read), "fp16", "bf16" or "fp32"; integer tensors keep theirs, alphas are never
            narrowed.
        layout: "same", "kohya", "diffusers", "peft" or "comfy".
        names: where keys belong (``resolve``, ``key_for``, ``aliases``); needed to change the layout.

    Raises:
        AdapterError: something the layout cannot express, or a value beyond fp16's range.
        SettingsError: an unknown dtype or layout, or no names for a change of layout.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"Unknown dtype {dtype!r}; choose one of {', '.join(choices.File.dtypes)}")
    written = adapter.consistent() if layout == "same" else convert(adapter, layout, names)
    out: dict[str, Tensor] = {}
    same = written is adapter
    for module in written.modules.values():
        for suffix, tensor in module.tensors.items():
            key = module.key + suffix
            if written.aliases.get(key, key) is not None:
                value = cast(tensor, DTYPES[dtype], key, keep=suffix == ALPHA)
                out[written.aliases.get(key) or key], same = value, same and value is tensor
    for key, tensor in written.extras.items():
        value = cast(tensor, DTYPES[dtype], key)
        out[written.aliases.get(key) or key], same = value, same and value is tensor
    return LoraState(out, metadata=written.metadata, file=adapter.file, digest=adapter.digest if same else "")


def cast(tensor: Tensor, dtype: torch.dtype | None, key: str, *, keep: bool = False) -> Tensor:
    """The tensor in another dtype; ``keep`` forbids narrowing. AdapterError where fp16 overflows."""
    if dtype is None or not tensor.dtype.is_floating_point or tensor.dtype == dtype:
        return tensor
    if keep and tensor.element_size() > torch.finfo(dtype).bits // 8:
        return tensor
    out = tensor.to(dtype)
    if not bool(torch.isfinite(out).all()) and bool(torch.isfinite(tensor.float()).all()):
        raise AdapterError(
            f"A value of {float(tensor.float().abs().max()):.3g} does not fit {dtype}",
            key=key,
            hint="Write it as bf16 or fp32.",
        )
    return out


@one_thread()
def write(
    adapter: Adapter,
    path: str | os.PathLike,
    *,
    dtype: str | None = None,
    layout: str = "same",
    names: Names | None = None,
    overwrite: bool = False,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Writes a ``.safetensors`` file, whole or not at all; the same adapter gives the same bytes.

    A path with another ending is a folder for PEFT, where the adapter came from one or the layout is "peft".

    Args:
        dtype, layout, names: as for :func:`to_state_dict`.
        overwrite: allow replacing an existing file.
        provenance: entries added to the metadata under ``lora_graft.``, as strings (others as JSON).

    Raises:
        AdapterError: as :func:`to_state_dict`; the output exists; the disk is full. Nothing is left behind.
    """
    changed = bool(provenance) or dtype not in (None, "same") or layout != "same"
    if Path(path).suffix.lower() != ".safetensors":
        if adapter.peft is None and "peft" not in (layout, adapter.layout):
            raise AdapterError("Adapters are written as .safetensors only", file=path)
        return _write_folder(adapter, path, dtype, layout, names, overwrite, provenance, changed)
    if any(is_fused(key, adapter.peft.config) for key in adapter.modules if adapter.peft):
        raise AdapterError(
            "A LoRA on fused experts can only be written as a PEFT folder", file=path, hint="Leave out .safetensors."
        )
    state = to_state_dict(adapter, dtype, layout, names)
    for key, tensor in state.items():
        if tensor.dtype.is_floating_point and not _unused_alpha(key, state) and not all_finite(tensor.float()):
            raise AdapterError(
                "The result has NaN or Inf inside and was not written",
                file=path,
                key=key,
                hint="Values or strengths are too large for the arithmetic; lower them, or write fp32.",
            )
    metadata = with_provenance(state.metadata, provenance, changed=changed)
    return safetensors.save(path, state, metadata, overwrite=overwrite)


def _write_folder(
    adapter: Adapter,
    path: str | os.PathLike,
    dtype: str | None,
    layout: str,
    names: Names | None,
    overwrite: bool,
    provenance: dict[str, Any] | None,
    changed: bool,
) -> Path:
    if dtype not in DTYPES:
        raise SettingsError(f"Unknown dtype {dtype!r}; choose one of {', '.join(choices.File.dtypes)}")
    if layout not in ("same", "peft"):
        raise AdapterError(
            f"A folder is PEFT's form, and its keys are not those of the {layout} layout",
            file=path,
            hint="Choose the layout peft, or a name that ends in .safetensors.",
        )
    if layout == "peft" and adapter.layout != "peft":
        adapter = convert(adapter, layout, names)
    to = DTYPES[dtype]

    def narrowed(tensor: Tensor, key: str) -> Tensor:
        return cast(tensor, to, key)

    return write_folder(adapter, path, cast=narrowed, overwrite=overwrite, provenance=provenance, changed=changed)
