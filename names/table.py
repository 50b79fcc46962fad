"""Transformers whose diffusers names differ from the checkpoint's by a table, block list by block list.

A row says: diffusers' module ``theirs`` is the checkpoint's module ``ours``, or its ``part``-th row slice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .keys import NUMBER
from .weight_slice import Shape, StoredPart, WeightSlice


class Row(NamedTuple):
    theirs: str
    ours: str
    part: int | None = None
    swap: bool = False
    alias_only: bool = False


class Table(NamedTuple):
    """lists: checkpoint's block list -> (diffusers' block list, rows); stem: rows outside any list."""

    lists: Mapping[str, tuple[str, tuple[Row, ...]]]
    stem: tuple[Row, ...]
    whole: Mapping[str, str] = {}  # diffusers parameter -> checkpoint parameter, full names


# lengths(number of rows) -> rows of each part of a fused weight
Lengths = Callable[[int], list[int]]


def rows_of(*pairs: str) -> tuple[Row, ...]:
    """Rows from "theirs = ours" lines."""
    sides = (pair.split("=") for pair in pairs)
    return tuple(Row(theirs.strip(), ours.strip()) for theirs, ours in sides)


def fused(ours: str, *theirs: str) -> tuple[Row, ...]:
    """Rows for the slices of one fused weight, in order."""
    return tuple(Row(name, ours, part) for part, name in enumerate(theirs))


def aliases(native: Mapping[str, Shape], table: Table, lengths: Lengths) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice for every tensor of the checkpoint (names without prefix)."""
    last = _last(native, table.lists)
    found: dict[str, WeightSlice] = {
        theirs: WeightSlice(ours) for theirs, ours in table.whole.items() if ours in native
    }
    for name, shape in native.items():
        module, _, end = name.rpartition(".")
        block, inner = _block(module, table.lists)
        if block is None:
            prefix, rows = "", table.stem
        else:
            theirs, rows = table.lists[block[0]]
            prefix = f"{theirs}.{block[1]}."
        for row in rows:
            if row.ours != inner:
                continue
            weight_slice = _weight_slice(name, shape, row, lengths, block is None or block[1] == last[block[0]])
            if weight_slice is not None:
                found[f"{prefix}{row.theirs}.{end}"] = weight_slice
    return found


def parts(diffusers: Mapping[str, Shape], table: Table) -> dict[str, list[StoredPart]]:
    """Checkpoint tensor name -> the diffusers tensors that make it up, in row order."""
    theirs = {their: (ours, rows) for ours, (their, rows) in table.lists.items()}
    last = _last(diffusers, theirs)
    found: dict[str, dict[int, StoredPart]] = {}
    for name, shape in diffusers.items():
        if name in table.whole:
            found[table.whole[name]] = {0: StoredPart(name)}
            continue
        module, _, end = name.rpartition(".")
        block, inner = _block(module, theirs)
        if block is None:
            prefix, rows = "", table.stem
        else:
            ours, rows = theirs[block[0]]
            prefix = f"{ours}.{block[1]}."
        for row in rows:
            if row.theirs != inner or row.alias_only:
                continue
            pieces = found.setdefault(f"{prefix}{row.ours}.{end}", {})
            if row.swap and (block is None or block[1] == last[block[0]]):
                half = shape[0] // 2
                pieces.update({0: StoredPart(name, (half, half)), 1: StoredPart(name, (0, half))})
            else:
                pieces[row.part or 0] = StoredPart(name)
    return {name: [pieces[i] for i in sorted(pieces)] for name, pieces in found.items()}


def _weight_slice(name: str, shape: Shape, row: Row, lengths: Lengths, last: bool) -> WeightSlice | None:
    if row.part is None:
        return WeightSlice(name, swap=row.swap and last)
    sizes = lengths(shape[0])
    if row.part >= len(sizes) or sizes[row.part] <= 0:
        return None
    return WeightSlice(name, (sum(sizes[: row.part]), sizes[row.part]))


def _block(module: str, lists: Mapping[str, object]) -> tuple[tuple[str, int] | None, str]:
    match = re.match(rf"([A-Za-z_.]+)\.({NUMBER})\.(.+)$", module)
    if match and match.group(1) in lists:
        return (match.group(1), int(match.group(2))), match.group(3)
    return None, module


def _last(names: Mapping[str, Shape], lists: Mapping[str, object]) -> dict[str, int]:
    last: dict[str, int] = {}
    for name in names:
        block, _ = _block(name, lists)
        if block is not None:
            last[block[0]] = max(last.get(block[0], -1), block[1])
    return last
