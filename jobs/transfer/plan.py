"""Which weight of the target takes over each module of an adapter.

Names come from the two bases (file maps, or the host's own); shapes are checked here, so that later floors
can rely on every planned step fitting its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...adapters import Adapter, AdapterModule
from ...bases.model import Base
from ...errors import WrongBaseError
from ...kernels.matching import Item, match
from ...names import PruningMap, WeightSlice, describe, guess_adapter_architecture, published_map
from ...names.describe import natural
from ..text import times
from .slices import shape_of

Similarity = Callable[[Item, Item], float]
ITS_OWN = "Choose the base it was trained on as the source."


@dataclass(frozen=True)
class Step:
    """One module of the adapter on its way.

    source: the weight it changes in the source base; None when the base does not know the key.
    target: the weight that takes over in the target base; None when there is none.
    key:    the module key to write.
    reason: why there is no target, or why the module travels as it is.
    fills:  the target is a block that no block of the source feeds; it takes this update beside the block's own.
    """

    module: AdapterModule
    source: WeightSlice | None
    target: WeightSlice | None
    key: str
    reason: str = ""
    fills: bool = False


@dataclass(frozen=True)
class Plan:
    """How an adapter goes from one base to another.

    steps:       one per module of the adapter, in the adapter's order.
    unfed:       weights of the target that no weight of the source feeds, in the parts (the denoiser, one text encoder)
                 that the adapter changes.
    pruning_map: the published one that says which block feeds which; None where names agree or a search decided.
    searched:    whether a search decided.
    """

    steps: list[Step]
    unfed: set[str]
    pruning_map: PruningMap | None = None
    searched: bool = False


def plan(adapter: Adapter, source: Base, target: Base, similarity: Similarity | None = None) -> list[Step]:
    """The steps of :func:`lay_out` alone.

    Raises:
        WrongBaseError: no module of the adapter belongs to the source base, or a shape does not fit it.
    """
    return lay_out(adapter, source, target, similarity).steps


def lay_out(
    adapter: Adapter, source: Base, target: Base, similarity: Similarity | None = None, *, published: bool = True
) -> Plan:
    """Find the weight of the target for every module of the adapter.

    Args:
        similarity: of two weights, asked where a search decides.
        published: whether a published pruning map, where there is one, goes before the search.

    Raises:
        WrongBaseError: no module of the adapter belongs to the source base, or a shape does not fit it.
    """
    weight_slices = {key: source.names.resolve(key) for key in adapter.modules}
    weights = source.weights()
    found = {
        key: weight_slice
        for key, weight_slice in weight_slices.items()
        if weight_slice is not None and weight_slice.name in weights
    }
    if not found:
        raise _wrong_architecture(adapter, source)
    _check_shapes(adapter, found, source)
    groups = {_group(weight_slice.name) for weight_slice in found.values()}
    partner, pruning_map, searched = _partners(source, target, groups, similarity, published)
    unfed = {name for name in target.weights() if _group(name) in groups}.difference(partner.values())
    steps = [_step(module, found.get(key), partner, source, target) for key, module in adapter.modules.items()]
    return Plan(steps, unfed, pruning_map, searched)


def counterparts(source: Base, target: Base, names: list[str]) -> dict[str, str | None]:
    """For each canonical weight name of the source, the name in the target that takes over, or None.

    Two bases with the same weight names match by name, whatever their widths. Otherwise (pruned blocks)
    whole blocks are matched by a published map, or in order, per :func:`kernels.matching.match`.
    """
    partner, _, _ = _partners(source, target, {_group(name) for name in names}, None, published=True)
    return {name: partner.get(name) for name in names}


def _partners(
    source: Base, target: Base, groups: set[str], similarity: Similarity | None, published: bool
) -> tuple[dict[str, str | None], PruningMap | None, bool]:
    """:func:`counterparts` of all weights of some parts of the source, the map that was used, whether one searched."""
    ours, theirs = source.weights(), target.weights()
    partner: dict[str, str | None] = {}
    pruning_map, searched = None, False
    for group in groups:
        here = {n for n in ours if _group(n) == group}
        there = {n for n in theirs if _group(n) == group}
        if here == there:
            partner |= {n: n for n in here}
            continue
        found = published_map({n: ours[n] for n in here}, {n: theirs[n] for n in there}) if published else None
        if found is not None:
            children = {found.parent_of(name): name for name in there}
            partner |= {n: children.get(n) for n in here}
            pruning_map = found
        else:
            searched = searched or bool(there)
            partner |= match(
                [i for i in items(source) if i.name in here], [i for i in items(target) if i.name in there], similarity
            )
    return partner, pruning_map, searched


def _group(name: str) -> str:
    """The part of the model that a weight belongs to: the denoiser or one of the text encoders."""
    return name.split(".", 1)[0]


def _step(
    module: AdapterModule, weight_slice: WeightSlice | None, partner: dict[str, str | None], source: Base, target: Base
) -> Step:
    if weight_slice is None:
        return Step(module, None, None, module.key, f"{source.label} has no weight of this name: carried as it is")
    name = partner.get(weight_slice.name)
    if name is None:
        if _group(weight_slice.name) not in {_group(n) for n in target.weights()}:
            reason = f"{target.label} holds no {_group(weight_slice.name)}: carried as it is"
            return Step(module, None, None, module.key, reason)
        return Step(module, weight_slice, None, module.key, f"no counterpart in {target.label}")
    rows = _scaled_rows(weight_slice, source.weights()[weight_slice.name][0], target.weights()[name][0])
    there = weight_slice._replace(name=name, rows=rows)
    key = target.names.rekey(module.key, weight_slice, there)
    if key is None:
        key = target.names.key_for(there, "comfy")
    if key is None:
        return Step(module, weight_slice, None, module.key, f"{target.label} has no key for {name} in any layout")
    return Step(module, weight_slice, there, key)


def _scaled_rows(weight_slice: WeightSlice, height: int, new_height: int) -> tuple[int, int] | None:
    """The same share of a fused weight in a base of another width."""
    if weight_slice.rows is None or height == new_height:
        return weight_slice.rows
    start, length = weight_slice.rows
    return start * new_height // height, length * new_height // height


def _check_shapes(adapter: Adapter, found: dict[str, WeightSlice], source: Base) -> None:
    for key, weight_slice in found.items():
        module, expected = adapter.modules[key], shape_of(source, weight_slice)
        if module.shape is not None and not module.fits(tuple(expected)):
            raise WrongBaseError(
                f"the adapter changes a {times(module.shape)} weight, but {weight_slice.name} of {source.label} "
                f"({source.architecture}) is {times(expected)}",
                looks_like=_looks_like(adapter),
                advice=ITS_OWN,
                file=adapter.file,
                key=key,
            )


def _wrong_architecture(adapter: Adapter, source: Base) -> WrongBaseError:
    some = ", ".join(list(adapter.modules)[:3])
    return WrongBaseError(
        f"none of the adapter's {len(adapter.modules)} modules belongs to {source.label} ({source.architecture})",
        looks_like=_looks_like(adapter),
        advice=ITS_OWN,
        file=adapter.file,
        key=some,
    )


def _looks_like(adapter: Adapter) -> str:
    return guess_adapter_architecture({key: module.shape for key, module in adapter.modules.items()})


def items(base: Base) -> list[Item]:
    """Every weight of a base as the matcher wants it, in natural order (position counts from 0)."""
    weights = base.weights()
    found = []
    for position, name in enumerate(sorted(weights, key=natural)):
        block, role = describe(name)
        found.append(Item(name=name, role=role, block=block, shape=tuple(weights[name]), position=position))
    return found
