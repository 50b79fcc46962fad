"""Canonical weights inside a diffusers or transformers model: filled from a file, changed by an adapter, and found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..bases import Base, load_weight_slice
from ..bases.layout import canonical_parts
from ..errors import BaseModelError
from ..kernels import lowrank
from ..names import DENOISER, StoredPart, WeightSlice

SAME_KIND = "Give the folder of the same kind of model as the file."
StoredParts = Mapping[str, list[StoredPart]]


def stored_parts_of(model: nn.Module, part: str) -> StoredParts:
    """Canonical name → where the weight lies in the model's own tensors; part: the model's folder name."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if tensor.ndim}
    found = canonical_parts(shapes)
    if not part.startswith("text_encoder"):
        return found
    return {re.sub(rf"^{re.escape(DENOISER)}", f"{part}.transformer.", name): p for name, p in found.items()}


def fill(model: nn.Module, stored: StoredParts, base: Base) -> int:
    """Copy a base's weights into a model of the same form; the number of weights.

    Raises:
        BaseModelError: the base lacks some of the model's weights, or has them in another size.
    """
    tensors, shapes = model.state_dict(), base.weights()
    known = {name: parts for name, parts in stored.items() if name in shapes}
    if not known:
        return 0
    filled = {tensors[part.key].data_ptr() for parts in known.values() for part in parts}  # some have two names
    lacking = [
        name
        for name, parts in stored.items()
        if name not in shapes and not all(tensors[part.key].data_ptr() in filled for part in parts)
    ]
    if lacking:
        raise BaseModelError(
            f"{base.label} has {len(known)} weights of this part and lacks {len(lacking)}",
            key=lacking[0],
            hint=SAME_KIND,
        )
    with torch.no_grad():
        for name, parts in known.items():
            weight = base.load(name)
            if len(weight) != sum(_rows(part, tensors)[1] for part in parts):
                raise _other_size(base, name, weight)
            for part, rows in _split(weight, parts, tensors):
                start, length = _rows(part, tensors)
                there = tensors[part.key][start : start + length]
                if there.numel() != rows.numel():
                    raise _other_size(base, name, weight)
                there.copy_(rows.view_as(there))
    return len(known)


def _other_size(base: Base, name: str, weight: Tensor) -> BaseModelError:
    return BaseModelError(
        f"{base.label} has this weight in another size: {tuple(weight.shape)}", key=name, hint=SAME_KIND
    )


def _rows(part: StoredPart, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    return part.rows or (0, len(tensors[part.key]))


def _split(
    weight: Tensor, parts: list[StoredPart], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[StoredPart, Tensor]]:
    """The rows of a canonical weight that belong to each of its parts."""
    at = 0
    for part in parts:
        length = _rows(part, tensors)[1]
        yield part, weight[at : at + length]
        at += length


def row_index(parts: list[StoredPart], key: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """For each row of a model's own tensor, the row of the canonical weight; None where they are one and the same."""
    height, at, index = len(tensors[key]), 0, torch.full((len(tensors[key]),), -1)
    for part in parts:
        start, length = _rows(part, tensors)
        if part.key == key:
            index[start : start + length] = torch.arange(at, at + length)
        at += length
    return None if at == height and torch.equal(index, torch.arange(height)) else index


def updates(adapter: Adapter, base: Base, strength: float) -> Iterator[tuple[str, Tensor]]:
    """(canonical name, strength · ΔW in the whole weight's form, float32) of every module that the base has; biases
    follow under their own names.
    """
    shapes = base.weights()
    for key, module in adapter.modules.items():
        target = base.names.resolve(key)
        if target is None or target.name not in shapes:
            continue
        weight = load_weight_slice(base, target) if module.needs_base else None
        yield target.name, strength * _whole(module.delta(weight), target, shapes[target.name])
        bias, name = module.bias(), target.name.removesuffix(".weight") + ".bias"
        if bias is not None and name in shapes:
            yield name, strength * _whole(bias, target._replace(name=name), shapes[name])


def _whole(change: Tensor, target: WeightSlice, shape: tuple[int, ...]) -> Tensor:
    """A module's change as one of the whole weight, in the weight's own order of rows."""
    change = lowrank.swap_halves(change) if target.swap else change
    start, length = target.rows or (0, shape[0])
    whole = torch.zeros(shape)
    whole[start : start + length] = change.reshape(length, *shape[1:])
    return whole


@contextmanager
def changed(model: nn.Module, stored: StoredParts, adapters: list[tuple[Adapter, float]], base: Base) -> Iterator[None]:
    """Within this the model has the adapters on it; afterwards its weights are what they were, bit by bit."""
    tensors, kept = model.state_dict(), {}
    try:
        with torch.no_grad():
            for adapter, strength in adapters:
                if strength == 0:
                    continue
                for name, change in updates(adapter, base, strength):
                    for part, rows in _split(change, stored.get(name, []), tensors):
                        own = tensors[part.key]
                        if part.key not in kept:
                            kept[part.key] = own.to("cpu", copy=True)
                        start, length = _rows(part, tensors)
                        own = own[start : start + length]
                        own.copy_((own.float() + rows.to(own.device).view_as(own)).to(own.dtype))
        yield
    finally:
        with torch.no_grad():
            for key, before in kept.items():
                tensors[key].copy_(before)
