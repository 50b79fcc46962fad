"""Which modules of several adapters change the same weight, and under which key their merge is written.

A weight is known by its name in the base. Without a base the names are those of the known models
(:mod:`...names.recognise`); beyond those, two keys mean one weight when they differ only in prefix and in dots against
underscores. Slices of fused weights (q, k, v) are brought to the granularity of the first adapter that has the weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...adapters import Adapter, AdapterModule
from ...names import Names, WeightSlice, describe, style_of
from ...names.alike import flat
from .architecture import check_lone, is_text


@dataclass(frozen=True)
class Contribution:
    """What one adapter has for a merge target, or for the weight around it.

    index: the adapter's number. weight_slice: which weight, which rows; None when only the key is known.
    whole: the weight's shape as the names have it; None when not known.
    """

    index: int
    module: AdapterModule
    weight_slice: WeightSlice | None
    whole: tuple[int, ...] | None = None

    @property
    def rows(self) -> tuple[int, int] | None:
        """(start, length) of the rows of the whole weight that it changes; None for all of them."""
        return self.weight_slice.rows if self.weight_slice else None

    @property
    def swap(self) -> bool:
        """Whether its two row halves are the weight's in exchanged order."""
        return self.weight_slice is not None and self.weight_slice.swap


@dataclass
class MergeTarget:
    """One module of the merged adapter.

    key: its module key. label: name of the weight, or the key without its prefix. text: of a text encoder.
    weight_slice: the weight and rows; None when unknown. mixed: the contributions differ in rows and must be split or
    joined. height: rows of the whole weight; None when not known.
    """

    key: str
    label: str
    text: bool
    weight_slice: WeightSlice | None = None
    contributions: list[Contribution] = field(default_factory=list)
    mixed: bool = False
    height: int | None = None

    @property
    def sources(self) -> list[int]:
        """Numbers of the adapters that change it."""
        return sorted({contribution.index for contribution in self.contributions})

    @property
    def rows(self) -> tuple[int, int] | None:
        """(start, length) of its rows of the whole weight; None for all of them."""
        return self.weight_slice.rows if self.weight_slice else None

    @property
    def swap(self) -> bool:
        """Whether its two row halves are the weight's in exchanged order."""
        return self.weight_slice is not None and self.weight_slice.swap

    @property
    def weight_name(self) -> str:
        """The weight's canonical name; empty when unknown."""
        return self.weight_slice.name if self.weight_slice else ""

    @cached_property
    def where(self) -> tuple[str, str]:
        """(block, role) for reports."""
        if self.weight_slice is not None:
            return describe(self.weight_slice.name)
        numbers = list(re.finditer(r"(?:blocks?|layers?|attentions|resnets)_\d+(?=_)", self.label))
        if not numbers:
            return "other", self.label
        end = numbers[-1].end()
        return self.label[:end], self.label[end + 1 :]

    def of(self, index: int) -> list[Contribution]:
        """The contributions of one adapter."""
        return [contribution for contribution in self.contributions if contribution.index == index]


def find_targets(adapters: Sequence[Adapter], names: Names | None, *, from_base: bool = False) -> list[MergeTarget]:
    """Every weight that any of the adapters changes, in the first adapter's order, then the next one's.

    Args:
        names: of the model the adapters are for (:func:`.architecture.names_for`); None when unknown.
        from_base: whether they are a base's, so that nothing could match more modules.

    Raises:
        AdapterError: one adapter changes a weight twice; the adapters are for different architectures, or their keys
            are of two kinds that only a base could match.
    """
    weights: dict[str, list[Contribution]] = {}
    for index, adapter in enumerate(adapters):
        taken: dict[tuple[str, object], str] = {}
        for key, module in adapter.modules.items():
            weight_slice = names.resolve(key) if names else None
            label = weight_slice.name if weight_slice else flat(key)
            other = taken.setdefault((label, weight_slice and weight_slice[1:]), key)
            if other != key:
                module.fail(f"Two modules of the adapter change the same weight; the other is {other}")
            whole = names.shapes.get(weight_slice.name) if names and weight_slice else None
            weights.setdefault(label, []).append(Contribution(index, module, weight_slice, whole))
    writer = _Writer(adapters[0], names) if names else None
    targets = [target for label, found in weights.items() for target in _targets_of(label, found, writer)]
    if not from_base:
        shared = {index for target in targets if len(target.sources) > 1 for index in target.sources}
        check_lone(adapters, shared, resolved=all(target.weight_slice is not None for target in targets))
    return targets


class _Writer:
    """Keys for the merged adapter, in the first adapter's style."""

    def __init__(self, first: Adapter, names: Names):
        self.names, self.layout = names, first.layout
        self.styles: dict[bool, str] = {}
        for key in first.modules:
            weight_slice = names.resolve(key)
            self.styles.setdefault(is_text(key, weight_slice), style_of(key, weight_slice))

    def key(self, weight_slice: WeightSlice, own: Contribution | None) -> str | None:
        """The key for a weight slice, None if it has none; ``own``: the first contribution to just that slice.

        The first adapter's own keys stay as they are.
        """
        like = own and own.module.key
        style = self.styles.get(is_text("", weight_slice))
        if own and like and (own.index == 0 or style is None or style_of(like, weight_slice) == style):
            return like
        found = self.names.key_for(weight_slice, style) if style else None
        if found is None and self.layout in ("kohya", "diffusers", "peft", "comfy"):
            found = self.names.layout_key(weight_slice, self.layout)
        return found or like


def _targets_of(label: str, contributions: list[Contribution], writer: _Writer | None) -> list[MergeTarget]:
    """The targets of one weight: itself, or its slices."""
    sliced = [(c.weight_slice, c) for c in contributions if c.weight_slice is not None]
    if writer is None or not sliced:
        key = contributions[0].module.key
        return [MergeTarget(key, label, is_text(key), None, contributions)]

    def key_of(weight_slice: WeightSlice) -> str | None:
        return writer.key(weight_slice, next((c for known, c in sliced if known == weight_slice), None))

    shape = writer.names.shapes.get(label)
    targets = []
    for weight_slice, key in _slices_to_write(label, sliced, writer.names, key_of):
        inside = [c for known, c in sliced if known == weight_slice or _overlap(known, weight_slice)]
        if inside:
            target = MergeTarget(key, _label(weight_slice), is_text("", weight_slice), weight_slice, inside)
            target.mixed = any(c.weight_slice != weight_slice for c in inside)
            target.height = shape[0] if shape else None
            targets.append(target)
    return targets


def _slices_to_write(
    label: str,
    sliced: list[tuple[WeightSlice, Contribution]],
    names: Names,
    key_of: Callable[[WeightSlice], str | None],
) -> list[tuple[WeightSlice, str]]:
    """Weight slices to write and their keys: where adapters slice a weight differently, as the first that has it."""

    def named(slices: list[WeightSlice]) -> list[tuple[WeightSlice, str]]:
        return [(weight_slice, key) for weight_slice in slices if (key := key_of(weight_slice))]

    slices = list(dict.fromkeys(weight_slice for weight_slice, _ in sliced))
    if not any(_overlap(a, b) for i, a in enumerate(slices) for b in slices[:i]):
        return named(slices)
    lead = sliced[0][1]
    leading = [weight_slice for weight_slice, c in sliced if c.index == lead.index]
    whole = leading[0]
    if all(weight_slice.rows is not None for weight_slice in leading):
        pieces = [WeightSlice(label, rows) for rows in sorted(names.slices(label))]
        if pieces and len(named(pieces)) == len(pieces):
            return named(pieces)
        whole = WeightSlice(label)
    return named([whole]) or lead.module.fail(
        "The adapters cut this fused weight differently and no key is known for the whole of it"
    )


def _overlap(a: WeightSlice, b: WeightSlice) -> bool:
    """Whether two different weight slices of one weight share rows."""
    if a == b:
        return False
    if a.rows is None or b.rows is None:
        return True
    return a.rows[0] < sum(b.rows) and b.rows[0] < sum(a.rows)


def _label(weight_slice: WeightSlice) -> str:
    if weight_slice.rows is None:
        return weight_slice.name
    return f"{weight_slice.name}[{weight_slice.rows[0]}:{sum(weight_slice.rows)}]"
