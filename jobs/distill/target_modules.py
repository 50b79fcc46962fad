"""The target modules: which weights of the target get a student, and what each starts from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ... import choices
from ...adapters import Adapter
from ...bases.model import Base, load_weight_slice
from ...errors import AdapterError, SettingsError
from ...kernels import lowrank
from ...kernels.lowrank import LowRank
from ...names import describe
from ...names.describe import OUTSIDE
from .denoiser import Denoiser

_ATTENTION = re.compile(r"attn|attention|to_[qkv]|to_out|qkv|linear1|linear2")
_FEED_FORWARD = re.compile(r"\bff\b|ff_|mlp|feed_forward|ffn|\bw[123]\b|proj_(in|out)$")
MOST_LIKE = 0.5  # share of the adapters' weights that the target must have for `auto` to follow them


def target_modules(
    student: Denoiser, where: str, adapters: Sequence[Adapter], bases: Sequence[Base]
) -> tuple[list[str], str]:
    """(names of the weights to learn on, a sentence on the choice).

    where: one of ``choices.Distill.module_sets``. ``auto`` takes the weights that the adapters change, where the
    target has them (for a target of another architecture: attention and feed-forward).
    bases: of the adapters, one for each.

    Raises:
        SettingsError: unknown choice, or no weight answers to it.
    """
    if where not in choices.Distill.module_sets:
        raise SettingsError(
            f"unknown choice of modules {where!r}", hint=f"Choose {', '.join(choices.Distill.module_sets)}."
        )
    there = student.learnable()
    if where == "auto":
        wanted = list(
            dict.fromkeys(
                name for adapter, base in zip(adapters, bases, strict=True) for name in touched(adapter, base)
            )
        )
        found = [name for name in wanted if name in there]
        if found and len(found) >= MOST_LIKE * len(wanted):
            return _alive(student, found, "that the adapter changes")
        where = "attention + feed-forward"
    found = [name for name, shape in there.items() if _chosen(name, shape, where)]
    if not found:
        raise SettingsError(f"{student.label} has no weights of the kind {where!r}", hint="Choose 'linear'.")
    return _alive(student, found, f"({where})")


def touched(adapter: Adapter, base: Base) -> list[str]:
    """Canonical names of the matrices and kernels of a denoiser that an adapter changes."""
    weights, names = base.weights(), []
    for key in adapter.modules:
        weight_slice = base.names.resolve(key)
        if weight_slice is not None and len(weights.get(weight_slice.name, ())) >= 2:
            names.append(weight_slice.name)
    return list(dict.fromkeys(names))


def warm_starts(adapter: Adapter | None, student: Denoiser, names: Sequence[str]) -> dict[str, LowRank]:
    """The update of each weight in an adapter to start from; slices of fused weights put together.

    Raises:
        AdapterError: the adapter changes none of these weights, or a shape does not fit.
    """
    if adapter is None:
        return {}
    base, found = student.base, {}
    weights = base.weights()
    for key, module in adapter.modules.items():
        weight_slice = base.names.resolve(key)
        if weight_slice is None or weight_slice.name not in names:
            continue
        shape = weights[weight_slice.name]
        rows = weight_slice.rows or (0, shape[0])
        weight = load_weight_slice(base, weight_slice) if module.needs_base else None
        if module.shape is not None and not module.fits((rows[1], *shape[1:])):
            raise AdapterError(
                f"An update of {module.shape} does not fit the weight {tuple(shape)}",
                file=adapter.file,
                key=key,
                hint="Start from an adapter of this base, a transferred one for example.",
            )
        update = module.low_rank(weight)
        if weight_slice.swap:
            update = lowrank.swap_halves(update)
        update = lowrank.place_rows(update, rows[0], shape[0])
        found[weight_slice.name] = (
            lowrank.concatenate([found[weight_slice.name], update]) if weight_slice.name in found else update
        )
    if not found:
        raise AdapterError(
            "The adapter to start from changes none of the weights that are to be learnt",
            file=adapter.file,
            hint="Start from an adapter of the target, or from nothing.",
        )
    return found


def _alive(student: Denoiser, names: list[str], what: str) -> tuple[list[str], str]:
    """Those that are not all zero: a pruned block may stay in a file as zeros, and must not be revived."""
    alive = [name for name in names if student.base.load(name).any()]
    if not alive:
        raise SettingsError(f"All the weights {what} of {student.label} are zero")
    zero = f"; {len(names) - len(alive)} more are all zero and left out" if len(alive) < len(names) else ""
    return alive, f"The {len(alive)} weights {what}{zero}."


def _chosen(name: str, shape: tuple[int, ...], where: str) -> bool:
    block, role = describe(name)
    if block == OUTSIDE or (len(shape) != 2 and where != "linear + convolution"):
        return False
    if where in ("linear", "linear + convolution"):
        return True
    feed_forward = where == "attention + feed-forward" and _FEED_FORWARD.search(role)
    return bool(_ATTENTION.search(role) or feed_forward)
