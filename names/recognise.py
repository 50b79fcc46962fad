"""Which known model's names an adapter's keys are, when no base is at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from .alike import SERVED_BY
from .guess import UNKNOWN, metadata_architecture
from .guess_adapter import adapter_families
from .known import KNOWN, known_names, known_weights
from .weight_slice import Names, WeightSlice

Shape = tuple[int, ...]

_CANDIDATES = tuple(name for name in KNOWN if name not in SERVED_BY)  # what another serves stands behind it
_STREAM = re.compile(r"[._]attn[._](qkv|to_[qkv]|add_[qkv]_proj)$")


class _Fit(NamedTuple):
    """missing: modules without a place; misfits: modules of another shape than their weight."""

    missing: int
    misfits: int
    architecture: str
    names: Names
    weight_slices: dict[str, WeightSlice | None]

    @property
    def cost(self) -> tuple[int, int]:
        return self.missing, self.misfits


def names_of_adapters(
    modules: Mapping[str, Shape | None], metadata: Mapping[str, str] | None = None, *, every: bool = True
) -> tuple[Names, str] | None:
    """(names, architecture) of the known model that understands the keys; None when no known one does.

    Tried first: what the metadata says, then what keys and widths say, then the other known models. Of those that
    have a place for every module, the one whose weights have the modules' shapes wins. None also when two fit equally
    well, neither was named, and they read some key differently.

    Args:
        modules: module key -> shape (out, in, …) or None, of one adapter or of several made for one model.
        metadata: the adapter's, if it has any.
        every: whether each key must have a place; else the named model with most places serves.
    """
    by_metadata, guessed = metadata_architecture(metadata or {}), adapter_families(modules)
    models = serving((by_metadata,) if by_metadata in guessed else guessed)
    if models - {*KNOWN}:
        return None
    named = [SERVED_BY.get(by_metadata, by_metadata)] if by_metadata != UNKNOWN else []
    named += models if len(models) == 1 else []
    best: list[_Fit] = []
    for architecture in dict.fromkeys((*named, *_CANDIDATES)):
        fit = _fit(architecture, None, modules)
        if fit is None or fit.missing and (every or architecture not in named):
            continue
        if not best or fit.cost <= best[0].cost:
            best = [*best, fit] if best and fit.cost == best[0].cost else [fit]
        if architecture in named and not any(best[0].cost):
            break
    if not best:
        sized = [_fit(name, width, modules) for name in named for width in _widths(modules)]
        best = [fit for fit in sized if fit is not None and not (fit.missing and every)]
    if not best or (best[0].architecture not in named and any(_differ(best[0], other) for other in best[1:])):
        return None
    return best[0].names, best[0].architecture


def serving(families: tuple[str, ...]) -> set[str]:
    """The models whose names serve these families.

    What can be Flux's as well as Chroma's or HunyuanVideo's has one name in all of them.
    """
    alike = ("Chroma", "HunyuanVideo") if "Flux" in families else ()
    return {SERVED_BY.get(name, "Flux" if name in alike else name) for name in families}


def _fit(architecture: str, width: int | None, modules: Mapping[str, Shape | None]) -> _Fit | None:
    """How the modules lie in a known model; None when none does, or a fused weight has other rows."""
    names, missing, misfits = known_names(architecture, width), 0, 0
    if names is None:
        return None
    weights = known_weights(architecture, width)
    weight_slices = {key: names.resolve(key) for key in modules}
    for key, shape in modules.items():
        weight_slice = weight_slices[key]
        if weight_slice is None:
            missing += 1
        elif shape:
            rows, *columns = weights[weight_slice.name]
            rows = weight_slice.rows[1] if weight_slice.rows else rows
            misfits += (shape[0], prod(shape[1:])) != (rows, prod(columns))
            if shape[0] != rows and (weight_slice.rows or names.slices(weight_slice.name)):
                return None
    return _Fit(missing, misfits, architecture, names, weight_slices) if missing < len(modules) else None


def _widths(modules: Mapping[str, Shape | None]) -> list[int]:
    """Widths of the residual stream that joint attention's projections show."""
    return sorted({shape[1] for key, shape in modules.items() if shape and len(shape) > 1 and _STREAM.search(key)})


def _differ(one: _Fit, other: _Fit) -> bool:
    return one.weight_slices != other.weight_slices or one.names.kohya != other.names.kohya
