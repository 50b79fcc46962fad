"""The formats, in the order in which they are asked; adding one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from torch import Tensor

from ..errors import AdapterError
from .boft import Boft
from .dora import MAGNITUDES, SCALE, Dora
from .full import Bias, Diff, Norm, SetWeight
from .glora import Glora
from .ia3 import Ia3
from .loha import Loha
from .lokr import Lokr
from .lora import Lora
from .module import ALPHA, BIASES, AdapterModule
from .oft import Oft

FORMATS: tuple[type[AdapterModule], ...] = (Lora, Loha, Lokr, Glora, Oft, Boft, Ia3, Diff, Norm, SetWeight, Bias)

MOST_NUMBERS = 1 << 31  # of one weight; the largest embeddings have half of it

# Suffixes that belong to whatever else the module holds.
SHARED = (ALPHA, SCALE, *MAGNITUDES)


def modules_of(
    tensors: Mapping[str, Tensor], file: str | None = None
) -> tuple[dict[str, AdapterModule], dict[str, Tensor]]:
    """Modules by key, in file order, and the tensors that belong to none.

    Raises:
        AdapterError: a half is missing, a rank is zero or does not match, or one weight is changed in two ways.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    extras: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        hit = split(key, tensors)
        if hit is None:
            extras[key] = tensor
        else:
            groups.setdefault(hit[0], {})[hit[1]] = tensor
    modules: dict[str, AdapterModule] = {}
    for key, group in groups.items():
        module = module_of(key, group, file)
        if module is None:
            extras.update({key + suffix: tensor for suffix, tensor in group.items()})
        else:
            modules[key] = module
    return modules, extras


def split(key: str, keys: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """``(module key, suffix)`` of a file key, or None when no format knows it."""
    for suffix in SHARED:
        if key.endswith(suffix) and len(key) > len(suffix):
            return key[: -len(suffix)], suffix
    hits = (fmt.split(key, keys) for fmt in FORMATS)
    return next((hit for hit in hits if hit), None)


def module_of(key: str, tensors: dict[str, Tensor], file: str | None = None) -> AdapterModule | None:
    """One checked module from its tensors by suffix; None when only shared suffixes are there."""
    claimed = [fmt for fmt in FORMATS if fmt.claims(tensors)]
    if len(claimed) > 1:  # a bias or norm shift may ride on any other format
        claimed = [fmt for fmt in claimed if fmt is not Bias]
    if len(claimed) > 1:
        raise AdapterError(
            f"One weight is changed in several ways at once: {', '.join(f.kind for f in claimed)}",
            file=file,
            key=key,
            hint="Write each change to its own file.",
        )
    if not claimed:
        return None
    if ALPHA in tensors and tensors[ALPHA].numel() != 1:
        raise AdapterError(
            f"alpha must be one number, but has shape {tuple(tensors[ALPHA].shape)}", file=file, key=key + ALPHA
        )
    magnitudes = [s for s in (SCALE, *MAGNITUDES) if s in tensors]
    module = claimed[0](key, tensors, file=file)
    if magnitudes:
        inner = replace(module, tensors={s: t for s, t in tensors.items() if s not in magnitudes})
        module = Dora(key, tensors, file=file, inner=inner)
    module.check()
    _check_bias(module)
    if module.shape is not None and prod(module.shape) > MOST_NUMBERS:
        raise AdapterError(
            f"The update is {' × '.join(map(str, module.shape))}, larger than any model's weight", file=file, key=key
        )
    return module


def _check_bias(module: AdapterModule) -> None:
    """A change of the bias has one number for each output of the layer."""
    for suffix in BIASES:
        found = module.tensors.get(suffix)
        outputs = tuple(module.shape or ())[:1] if found is not None else ()
        if found is not None and (found.ndim != 1 or not found.numel() or (outputs and outputs != found.shape)):
            wanted = f" for {outputs[0]} outputs" if outputs else ""
            module.fail(f"A bias must be a list of numbers, but has shape {tuple(found.shape)}{wanted}", suffix=suffix)
