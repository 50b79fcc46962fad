"""Slice by slice: the parts of fused weights (q, k, v) whose subspaces are taken one by one.

Transfer, comparison and the measuring before many transfers all ask here.
"""

from __future__ import annotations

from ...bases.model import Base
from ...names import WeightSlice


def shape_of(base: Base, weight_slice: WeightSlice) -> tuple[int, ...]:
    """Shape of the weight, or of the rows of it that the weight slice names."""
    shape = tuple(base.weights()[weight_slice.name])
    return shape if weight_slice.rows is None else (weight_slice.rows[1], *shape[1:])


def slices_of(base: Base, weight_slice: WeightSlice) -> list[WeightSlice]:
    """The slices of a fused weight that the base's names know, top to bottom; the weight slice itself where none are.

    A weight counts as fused only when its known slices tile it without gap or overlap.
    """
    if weight_slice.rows is not None:
        return [weight_slice]
    height = base.weights()[weight_slice.name][0]
    slices = sorted(base.names.slices(weight_slice.name))
    edge = 0
    for start, length in slices:
        if start != edge:
            return [weight_slice]
        edge += length
    return [WeightSlice(weight_slice.name, rows) for rows in slices] if slices and edge == height else [weight_slice]


def slice_pairs(
    source: Base, target: Base, ours: WeightSlice, theirs: WeightSlice
) -> list[tuple[WeightSlice, WeightSlice]]:
    """The slices of a weight in two bases whose subspaces are compared, top to bottom.

    The weight as a whole where it is not fused or the two bases know other numbers of slices; nothing where it is a
    vector in either base.
    """
    if len(shape_of(source, ours)) < 2 or len(shape_of(target, theirs)) < 2:
        return []
    mine, yours = slices_of(source, ours), slices_of(target, theirs)
    if len(mine) != len(yours) or len(mine) == 1:
        return [(ours, theirs)]
    return list(zip(mine, yours, strict=True))
