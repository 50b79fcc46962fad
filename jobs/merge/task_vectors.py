"""What one adapter contributes to one place of a merge: an exact factored update, a dense change, a bias change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ...adapters import AdapterModule
from ...adapters.full import Diff, SetWeight
from ...bases.model import Base, load_weight_slice
from ...kernels import lowrank
from ...kernels.lowrank import LowRank
from ...kernels.units import fold
from .targets import Contribution, MergeTarget

# A module that acts through its base weight (DoRA, OFT …) has an update of full rank; this much of it is kept.
BAKED_RANK, BAKED_FACTOR = 64, 4
BASE_HINT = "Give the base model the LoRA is for: --base on the command line, the model input of the node."


@dataclass
class TaskVector:
    """One adapter's change at a place, its strength folded in (a negative sign included).

    update: factors (m, r), (r, n·kh·kw); None when the change is dense or of the bias alone.
    dense: ΔW in the weight's own shape, for whole differences, norms and vectors.
    bias: (m,) change of the layer's bias. shape: the weight's (out, in, …).
    error: relative Frobenius error of making ``update`` (0 when exact).
    """

    index: int
    shape: tuple[int, ...]
    update: LowRank | None = None
    dense: Tensor | None = None
    bias: Tensor | None = None
    error: float = 0.0


def task_vector_of(place: MergeTarget, parts: Sequence[Contribution], strength: float, base: Base | None) -> TaskVector:
    """The parts of one adapter at a place as one share.

    Raises:
        AdapterError: a part means nothing without its base weight and there is none.
    """
    pieces = [_read(part, base) for part in parts]
    if place.mixed:
        height = place.height or _height(place)
        pieces = [_placed(piece, part, place, height) for piece, part in zip(pieces, parts, strict=True)]
    share = pieces[0] if len(pieces) == 1 else _joined(pieces)
    return TaskVector(
        share.index,
        share.shape,
        None if share.update is None else _tight(fold(share.update, strength)),
        None if share.dense is None else share.dense * strength,
        None if share.bias is None else share.bias * strength,
        share.error,
    )


def bound(module: AdapterModule) -> int:
    """The rank that the module's update has at most, without computing it."""
    most = min(module.shape[0], prod(module.shape[1:])) if module.shape and len(module.shape) > 1 else 1
    if module.kind == "lora":
        return module.rank
    return min(module.rank**2, most) if module.kind == "loha" else most


def _read(part: Contribution, base: Base | None) -> TaskVector:
    module = part.module
    weight = _weight(part, base) if module.needs_base else None
    bias, shape = module.bias(), _kernel(part, base)
    if module.kind == "bias":
        return TaskVector(part.index, (bias.shape[0], 1), bias=bias)
    if isinstance(module, (Diff, SetWeight)) or (shape is not None and len(shape) < 2):
        dense = module.delta(weight)
        return TaskVector(part.index, tuple(dense.shape), dense=dense, bias=bias)
    if not module.needs_base:
        update, scale = module.low_rank(), module.scale()
        if module.kind == "lora" and scale not in (0, 1):  # LEGO's units: alpha/rank goes evenly into both factors
            half = abs(scale) ** 0.5
            update = LowRank(update.up / half, update.down * half)
        return TaskVector(part.index, shape or update.shape, update, bias=bias)
    delta = module.delta(weight)
    rank = max(BAKED_RANK, BAKED_FACTOR * (module.rank or 1))
    update, error = lowrank.from_dense(delta.flatten(1), rank=min(rank, *delta.flatten(1).shape))
    return TaskVector(part.index, tuple(delta.shape), update, bias=bias, error=error)


def _kernel(part: Contribution, base: Base | None) -> tuple[int, ...] | None:
    """The module's shape; of a convolution whose product is stored flat, the base tells the kernel."""
    shape = part.module.shape
    whole = base.weights().get(part.weight_slice.name) if base is not None and part.weight_slice is not None else None
    if shape is None or whole is None or prod(shape[1:]) != prod(whole[1:]):
        return shape
    return (shape[0], *whole[1:])


def _weight(part: Contribution, base: Base | None) -> Tensor:
    known = base is not None and part.weight_slice is not None and part.weight_slice.name in base.weights()
    if not known:
        part.module.fail(
            f"A {part.module.kind} module changes the weight it is applied to; merging it needs that weight",
            hint=BASE_HINT,
        )
    return load_weight_slice(base, part.weight_slice)


def _tight(update: LowRank) -> LowRank:
    """The same update without rank that cannot be there: factors wider than the matrix are factored again."""
    return lowrank.recompress(update)[0] if update.rank > min(update.shape) else update


# Slices of fused weights


def _height(place: MergeTarget) -> int:
    """Rows of the whole weight, from the parts; AdapterError where they do not tell."""
    rows = [sum(part.weight_slice.rows) for part in place.parts if part.weight_slice.rows]
    wholes = [part.module.shape[0] for part in place.parts if part.weight_slice.rows is None and part.module.shape]
    if not wholes and place.weight_slice.rows is None:
        place.parts[0].module.fail(
            "The adapter changes some rows of a fused weight, and how many it has in all is not known", hint=BASE_HINT
        )
    return max(rows + wholes)


def _placed(piece: TaskVector, part: Contribution, place: MergeTarget, height: int) -> TaskVector:
    """The piece cut to the place's rows, or set among its zero rows; halves exchanged where the two disagree."""
    start, length = place.weight_slice.rows or (0, height)
    mine, count = part.weight_slice.rows or (0, height)
    low, high = max(start, mine), min(start + length, mine + count)
    shape = (length, *piece.shape[1:])

    def move(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if part.weight_slice.swap != place.weight_slice.swap:
            tensor = tensor.roll(tensor.shape[0] // 2, 0)
        if (low, high) == (start, start + length):
            return tensor[low - mine : high - mine]
        out = tensor.new_zeros(length, *tensor.shape[1:])
        out[low - start : high - start] = tensor[low - mine : high - mine]
        return out

    update = piece.update
    if update is not None:
        up = move(update.up)
        used = up.abs().amax(0) > 0  # a slice of q, k, v put together leaves the others' columns empty
        used[0] |= not bool(used.any())
        update = LowRank(up[:, used], update.down[used])
    return replace(piece, shape=shape, update=update, dense=move(piece.dense), bias=move(piece.bias))


def _joined(pieces: list[TaskVector]) -> TaskVector:
    """One share of several pieces of one weight: they touch different rows, so they simply add up."""
    updates = [p.update for p in pieces if p.update is not None]
    dense = [p.dense for p in pieces if p.dense is not None]
    biases = [p.bias for p in pieces if p.bias is not None]
    whole = next((p for p in pieces if p.update is not None or p.dense is not None), pieces[0])
    if updates and dense:
        dense += [u.dense().reshape(whole.shape) for u in updates]
        updates = []
    return replace(
        whole,
        update=lowrank.concatenate(updates) if updates else None,
        dense=torch.stack(dense).sum(0) if dense else None,
        bias=torch.stack(biases).sum(0) if biases else None,
        error=max(p.error for p in pieces),
    )
