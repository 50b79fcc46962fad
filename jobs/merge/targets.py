"""Which modules of several adapters change the same weight, and under which key their merge is written.

A weight is known by its place in the base. Without a base the places are those of the known models
(:mod:`...names.recognise`); beyond those, two keys mean one weight when they differ only in prefix and in dots against
underscores. Slices of fused weights (q, k, v) are brought to the granularity of the first
adapter that has the weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from ...adapters import Adapter, AdapterModule
from ...bases.model import Base
from ...errors import AdapterError, WrongBaseError
from ...names import DENOISER, Names, WeightSlice, adapter_families, describe, style_of
from ...names.guess_adapter import OR
from ...names.keys import BODY, is_text_encoder, parse_key
from ..names import known_names_of
from ..text import times
from ..transfer.plan import plan

# Families whose members a file that leaves blocks out can be mistaken for.
_FAMILIES = {"SSD-1B": "SDXL", "Segmind Vega": "SDXL", "KOALA": "SDXL", "SD3.5 medium": "SD3", "SD3.5 large": "SD3"}
# Beginnings of block names: the family they belong to, where they tell, and whose names they are.
_BODIES = (
    (r"(input_blocks|middle_block|output_blocks)_", "UNet", "checkpoint"),
    (r"(down_blocks|mid_block|up_blocks)_", "UNet", "diffusers"),
    (r"(double_blocks|single_blocks)_", "Flux", "checkpoint"),
    (r"joint_blocks_", "SD3", "checkpoint"),
    (r"(single_)?transformer_blocks_", None, "diffusers"),
)


@dataclass(frozen=True)
class Contribution:
    """What one adapter has for a place, or for the weight around it.

    index: the adapter's number. weight_slice: which weight, which rows; None when only the key is known.
    """

    index: int
    module: AdapterModule
    weight_slice: WeightSlice | None


@dataclass
class MergeTarget:
    """One module of the merged adapter.

    key: its module key. label: name of the weight, or the key without its prefix.
    weight_slice: the weight and rows; None when unknown. mixed: the parts differ in rows and must be cut or joined.
    height: rows of the whole weight; None when not known.
    """

    key: str
    label: str
    text: bool
    weight_slice: WeightSlice | None = None
    parts: list[Contribution] = field(default_factory=list)
    mixed: bool = False
    height: int | None = None

    @property
    def sources(self) -> list[int]:
        """Numbers of the adapters that change it."""
        return sorted({part.index for part in self.parts})

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


def find_places(adapters: Sequence[Adapter], base: Base | None = None) -> list[MergeTarget]:
    """Every weight that any of the adapters changes, in the first adapter's order, then the next one's.

    Raises:
        AdapterError: the adapters are for different architectures, do not belong to the base, or their keys are of
            two kinds that only a base could match.
    """
    if base is None:
        _same_architecture(adapters)
        names = known_names_of(adapters)
    else:
        names = base.names
        for adapter in adapters:
            _belongs(adapter, base)
    weights: dict[str, list[Contribution]] = {}
    for index, adapter in enumerate(adapters):
        taken: dict[tuple[str, object], str] = {}
        for key, module in adapter.modules.items():
            weight_slice = names.resolve(key) if names else None
            label = weight_slice.name if weight_slice else flat(key)
            other = taken.setdefault((label, weight_slice and weight_slice[1:]), key)
            if other != key:
                module.fail(f"Two modules of the adapter change the same weight; the other is {other}")
            weights.setdefault(label, []).append(Contribution(index, module, weight_slice))
    writer = _Writer(adapters, names)
    places = [place for label, parts in weights.items() for place in _places_of(label, parts, writer)]
    if base is None:
        _names_match(adapters, places)
    return places


def flat(key: str) -> str:
    """A module key without what tells one layout from another: prefix, and dots against underscores."""
    part, _, _, module = parse_key(key)
    if part in ("", BODY):
        return module.replace(".", "_")
    return (f"{part}_{module}" if is_text_encoder(key) else key).replace(".", "_")


def is_text(key: str, weight_slice: WeightSlice | None = None) -> bool:
    """Whether the module belongs to a text encoder: the clip strength counts for it."""
    return not weight_slice.name.startswith(DENOISER) if weight_slice else is_text_encoder(key)


class _Writer:
    """Keys for the merged adapter, in the first adapter's style."""

    def __init__(self, adapters: Sequence[Adapter], names: Names | None):
        self.names, self.layout = names, adapters[0].layout
        self.styles: dict[bool, str] = {}
        for key in adapters[0].modules:
            weight_slice = names.resolve(key) if names else None
            self.styles.setdefault(is_text(key, weight_slice), style_of(key, weight_slice))

    def key(self, weight_slice: WeightSlice, like: str | None) -> str | None:
        """The key for a weight_slice; ``like`` is a key that means it already."""
        style = self.styles.get(is_text("", weight_slice))
        if like is not None and (style is None or style_of(like, weight_slice) == style):
            return like
        found = self.names.key_for(weight_slice, style) if style else None
        if found is None and self.layout in ("kohya", "diffusers", "peft", "comfy"):
            found = self.names.layout_key(weight_slice, self.layout)
        return found or like


def _places_of(label: str, parts: list[Contribution], writer: _Writer) -> list[MergeTarget]:
    """The places of one weight: itself, or its slices."""
    if parts[0].weight_slice is None:
        key = parts[0].module.key
        return [MergeTarget(key, label, is_text(key), None, parts)]
    weight_slices = list(dict.fromkeys(part.weight_slice for part in parts))
    mixed = any(_overlap(a, b) for i, a in enumerate(weight_slices) for b in weight_slices[:i])
    targets = _targets(label, parts, writer) if mixed else weight_slices
    shape = writer.names.shapes.get(label)
    places = []
    for weight_slice in targets:
        own = next((part for part in parts if part.weight_slice == weight_slice), None)
        first = own is not None and own.index == 0
        key = own.module.key if first else writer.key(weight_slice, own and own.module.key)
        inside = [
            part for part in parts if _overlap(part.weight_slice, weight_slice) or part.weight_slice == weight_slice
        ]
        if inside:
            mixed = any(part.weight_slice != weight_slice for part in inside)
            places.append(
                MergeTarget(
                    key,
                    _label(weight_slice),
                    is_text("", weight_slice),
                    weight_slice,
                    inside,
                    mixed,
                    shape and shape[0],
                )
            )
    return places


def _targets(label: str, parts: list[Contribution], writer: _Writer) -> list[WeightSlice]:
    """Weight slices to write for a weight that the adapters cut differently: those of the first adapter that has it."""
    leader = [part for part in parts if part.index == parts[0].index]
    whole = WeightSlice(label)
    if all(part.weight_slice.rows is not None for part in leader):
        cuts = [WeightSlice(label, rows) for rows in sorted(writer.names.slices(label))]
        known = {part.weight_slice: part.module.key for part in parts}
        if cuts and all(writer.key(weight_slice, known.get(weight_slice)) for weight_slice in cuts):
            return cuts
    else:
        whole = leader[0].weight_slice
    known = next((part.module.key for part in parts if part.weight_slice == whole), None)
    if writer.key(whole, known) is None:
        leader[0].module.fail("The adapters cut this fused weight differently and no key is known for the whole of it")
    return [whole]


def _overlap(a: WeightSlice, b: WeightSlice) -> bool:
    """Whether two different weight slices of one weight share rows."""
    if a == b:
        return False
    if a.rows is None or b.rows is None:
        return True
    return a.rows[0] < sum(b.rows) and b.rows[0] < sum(a.rows)


def _label(weight_slice: WeightSlice) -> str:
    return (
        weight_slice.name
        if weight_slice.rows is None
        else f"{weight_slice.name}[{weight_slice.rows[0]}:{sum(weight_slice.rows)}]"
    )


# Checks


def _belongs(adapter: Adapter, base: Base) -> None:
    """WrongBaseError when nothing of the adapter fits the base, or a shape does not."""
    try:
        plan(adapter, base, base)
    except WrongBaseError as error:
        raise error.at(hint="Leave it out.") from None


def _same_architecture(adapters: Sequence[Adapter]) -> None:
    seen: dict[tuple[str, ...], Adapter] = {}
    for adapter in adapters:
        bodies = {key: m.shape for key, m in adapter.modules.items() if not is_text(key)}
        families = tuple(dict.fromkeys(_FAMILIES.get(family, family) for family in adapter_families(bodies)))
        if families:
            seen.setdefault(families, adapter)
    if any(not set(one) & set(other) for one in seen for other in seen):
        raise AdapterError(
            "The LoRAs are for different architectures: "
            + "; ".join(f"{_name(adapter)} looks like one for {OR.join(family)}" for family, adapter in seen.items()),
            hint="Only LoRAs for one architecture can be merged.",
        )


def _names_match(adapters: Sequence[Adapter], places: list[MergeTarget]) -> None:
    """AdapterError when an adapter shares no module with another because of its architecture or its kind of names."""
    for index, adapter in enumerate(adapters):
        if any(len(place.sources) > 1 and index in place.sources for place in places):
            continue
        mine = _bodies(adapter)
        for other in adapters[:index]:
            theirs = _bodies(other)
            families = [{family for family, _ in bodies} - {None} for bodies in (mine, theirs)]
            if all(families) and not families[0] & families[1]:
                raise AdapterError(
                    f"The LoRAs are for different architectures: {_name(other)} and {_name(adapter)} have no module in "
                    "common and name other kinds of blocks",
                    file=adapter.file,
                    key=next(iter(adapter.modules)),
                    hint="Only LoRAs for one architecture can be merged.",
                )
            schemes = [{scheme for _, scheme in bodies} for bodies in (mine, theirs)]
            if all(schemes) and not schemes[0] & schemes[1] and any(place.weight_slice is None for place in places):
                raise AdapterError(
                    f"{_name(adapter)} and {_name(other)} name the model's blocks in two different ways, and which "
                    "names mean the same weight is not known for this architecture",
                    file=adapter.file,
                    key=next(iter(adapter.modules)),
                    hint="Give the base model: --base on the command line, the model input of the node.",
                )


def _bodies(adapter: Adapter) -> set[tuple[str | None, str]]:
    """(family, whose names) of the block names that an adapter uses, where they tell."""
    names = [flat(key) for key in adapter.modules if not is_text(key)]
    return {(family, whose) for pattern, family, whose in _BODIES if any(re.match(pattern, name) for name in names)}


def check_shapes(place: MergeTarget, shapes: dict[int, tuple[int, ...]], adapters: Sequence[Adapter]) -> None:
    """AdapterError when the adapters think the weight has different sizes.

    shapes: adapter number -> (out, in, …) of its share, cut or joined to the place.
    """
    (first, one), *others = shapes.items()
    for index, shape in others:
        if (shape[0], prod(shape[1:])) != (one[0], prod(one[1:])):
            raise AdapterError(
                f"{_name(adapters[first])} changes a weight of {times(one)} here and {_name(adapters[index])} one of "
                f"{times(shape)}",
                file=adapters[index].file,
                key=place.key,
                hint="The LoRAs are for different architectures; only LoRAs for one can be merged.",
            )


def _name(adapter: Adapter) -> str:
    return re.split(r"[\\/]", adapter.file)[-1] if adapter.file else "a LoRA without a file name"
