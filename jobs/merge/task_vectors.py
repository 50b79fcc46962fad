"""What one adapter adds to one merge target: an exact factored update, a dense change, a bias change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ...adapters import AdapterModule
from ...adapters.full import Diff, SetWeight
from ...adapters.layouts import kernel_shape
from ...adapters.loha import Loha
from ...adapters.lora import Lora
from ...bases.model import Base, load_weight_slice
from ...kernels import lowrank
from ...kernels.lowrank import LowRank
from ...kernels.units import scale_factors
from .targets import Contribution, MergeTarget

# A module that acts through its base weight (DoRA, OFT …) has an update of full rank; this much of it is kept.
BAKED_RANK, BAKED_FACTOR = 64, 4
BASE_HINT = "Give the base model the LoRA is for: --base on the command line, the model input of the node."


@dataclass
class TaskVector:
    """One adapter's change of a target, its strength in it (a negative sign included).

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

    def as_dense(self, shape: tuple[int, ...]) -> Tensor | None:
        """ΔW as one tensor of this shape; None when only the bias changes."""
        if self.dense is not None:
            return self.dense.reshape(shape)
        return None if self.update is None else self.update.dense().reshape(shape)


def task_vector_of(
    target: MergeTarget, contributions: Sequence[Contribution], strength: float, base: Base | None
) -> TaskVector:
    """The contributions of one adapter to a target as one task vector.

    Raises:
        AdapterError: one means nothing without its base weight and there is none.
    """
    pieces = [_read(contribution, base) for contribution in contributions]
    if target.mixed:
        height = target.height or _height(target)
        pieces = [_aligned(piece, c, target, height) for piece, c in zip(pieces, contributions, strict=True)]
    vector = pieces[0] if len(pieces) == 1 else _joined(pieces)
    return replace(
        vector,
        update=None if vector.update is None else _tight(scale_factors(vector.update, strength)),
        dense=None if vector.dense is None else vector.dense * strength,
        bias=None if vector.bias is None else vector.bias * strength,
    )


def bound(module: AdapterModule) -> int:
    """The rank that the module's update has at most, without computing it."""
    if isinstance(module, Lora):
        return module.rank
    most = min(module.shape[0], prod(module.shape[1:])) if module.shape and len(module.shape) > 1 else 1
    return min(module.rank**2, most) if isinstance(module, Loha) else most


def _read(contribution: Contribution, base: Base | None) -> TaskVector:
    index, module = contribution.index, contribution.module
    weight = _weight(contribution, base) if module.needs_base else None
    bias, shape = module.bias(), _kernel(contribution, base)
    if module.kind == "bias" and bias is not None:
        return TaskVector(index, (bias.shape[0], 1), bias=bias)
    if isinstance(module, (Diff, SetWeight)) or (shape is not None and len(shape) < 2):
        dense = module.delta(weight)
        return TaskVector(index, tuple(dense.shape), dense=dense, bias=bias)
    if not module.needs_base:
        update, scale = module.low_rank(), module.scale()
        if module.kind == "lora" and scale not in (0, 1):  # LEGO's units: alpha/rank goes evenly into both factors
            half = abs(scale) ** 0.5
            update = LowRank(update.up / half, update.down * half)
        return TaskVector(index, shape or update.shape, update, bias=bias)
    delta = module.delta(weight)
    rank = max(BAKED_RANK, BAKED_FACTOR * (module.rank or 1))
    update, error = lowrank.from_dense(delta.flatten(1), rank=min(rank, *delta.flatten(1).shape))
    return TaskVector(index, tuple(delta.shape), update, bias=bias, error=error)


def _kernel(contribution: Contribution, base: Base | None) -> tuple[int, ...] | None:
    """The module's shape; of a convolution whose product is stored flat, the weight tells the kernel."""
    shape, weight_slice = contribution.module.shape, contribution.weight_slice
    known = base.weights().get(weight_slice.name) if base is not None and weight_slice is not None else None
    return None if shape is None else kernel_shape(shape, known or contribution.whole)


def _weight(contribution: Contribution, base: Base | None) -> Tensor:
    weight_slice, module = contribution.weight_slice, contribution.module
    if base is None or weight_slice is None or weight_slice.name not in base.weights():
        module.fail(
            f"A {module.kind} module changes the weight it is applied to; merging it needs that weight", hint=BASE_HINT
        )
    return load_weight_slice(base, weight_slice)


def _tight(update: LowRank) -> LowRank:
    """The same update without rank that cannot be there: factors wider than the matrix are factored again."""
    return lowrank.truncate(update)[0] if update.rank > min(update.shape) else update


# Slices of fused weights


def _height(target: MergeTarget) -> int:
    """Rows of the whole weight, from the contributions; AdapterError where they do not tell."""
    ends = [sum(c.rows) for c in target.contributions if c.rows]
    wholes = [c.module.shape[0] for c in target.contributions if c.rows is None and c.module.shape]
    if not wholes and target.rows is None:
        target.contributions[0].module.fail(
            "The adapter changes some rows of a fused weight, and how many it has in all is not known", hint=BASE_HINT
        )
    return max(ends + wholes)


def _aligned(piece: TaskVector, contribution: Contribution, target: MergeTarget, height: int) -> TaskVector:
    """The piece's rows of the target, or the piece among the target's zero rows; halves swapped where they disagree."""
    start, length = target.rows or (0, height)
    mine, count = contribution.rows or (0, height)
    low, high = max(start, mine), min(start + length, mine + count)
    swap = contribution.swap != target.swap

    def move(tensor: Tensor) -> Tensor:
        if swap:
            tensor = lowrank.swap_halves(tensor)
        return lowrank.place_rows(lowrank.take_rows(tensor, low - mine, high - low), low - start, length)

    update = piece.update
    if update is not None:
        up = move(update.up)
        used = lowrank.used_columns(up)  # a slice of q, k, v put together leaves the others' columns empty
        used[0] |= not bool(used.any())
        update = LowRank(up[:, used], update.down[used])
    return replace(
        piece,
        shape=(length, *piece.shape[1:]),
        update=update,
        dense=None if piece.dense is None else move(piece.dense),
        bias=None if piece.bias is None else move(piece.bias),
    )


def _joined(pieces: list[TaskVector]) -> TaskVector:
    """One task vector of several pieces of one weight: they touch different rows, so they simply add up."""
    updates = [p.update for p in pieces if p.update is not None]
    dense_updates = [p.dense for p in pieces if p.dense is not None]
    biases = [p.bias for p in pieces if p.bias is not None]
    whole = next((p for p in pieces if p.update is not None or p.dense is not None), pieces[0])
    if updates and dense_updates:
        dense_updates += [u.dense().reshape(whole.shape) for u in updates]
        updates = []
    return replace(
        whole,
        update=lowrank.concatenate(updates) if updates else None,
        dense=torch.stack(dense_updates).sum(0) if dense_updates else None,
        bias=torch.stack(biases).sum(0) if biases else None,
        error=max(p.error for p in pieces),
    )
