"""Whether several adapters are for one model: recognised by their names, held against a base, compared by shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod

from ...adapters import Adapter
from ...bases.model import Base
from ...errors import AdapterError, WrongBaseError
from ...names import DENOISER, Names, WeightSlice, adapter_families
from ...names.alike import BlockNames, block_names, one_family
from ...names.guess_adapter import OR
from ...names.keys import is_text_encoder
from ..names import known_names_of
from ..text import times
from ..transfer.plan import plan


def names_for(adapters: Sequence[Adapter], base: Base | None = None) -> Names | None:
    """Names of the one model that the adapters are for: the base's, or those of a known model; None if unknown.

    Raises:
        AdapterError: the adapters are for different architectures.
        WrongBaseError: one of them does not belong to the base.
    """
    if base is None:
        _check_families(adapters)
        return known_names_of(adapters)
    for adapter in adapters:
        _check_base(adapter, base)
    return base.names


def is_text(key: str, weight_slice: WeightSlice | None = None) -> bool:
    """Whether the module belongs to a text encoder: the clip strength counts for it."""
    return not weight_slice.name.startswith(DENOISER) if weight_slice else is_text_encoder(key)


def check_shapes(key: str, shapes: Mapping[int, tuple[int, ...]], adapters: Sequence[Adapter]) -> None:
    """AdapterError when the adapters think that the weight under a key has different sizes.

    shapes: adapter number -> (out, in, …) of its task vector, split or joined to the target.
    """
    (first, one), *others = shapes.items()
    for index, shape in others:
        if (shape[0], prod(shape[1:])) != (one[0], prod(one[1:])):
            raise AdapterError(
                f"{_file_name(adapters[first])} changes a weight of {times(one)} here and "
                f"{_file_name(adapters[index])} one of {times(shape)}",
                file=adapters[index].file,
                key=key,
                hint="The LoRAs are for different architectures; only LoRAs for one can be merged.",
            )


def check_lone(adapters: Sequence[Adapter], shared: set[int], *, resolved: bool) -> None:
    """AdapterError when an adapter has no module in common with others because of how its blocks are named.

    Args:
        shared: numbers of the adapters that do have one in common with another.
        resolved: whether it is known of every module which weight it changes.
    """
    for index, adapter in enumerate(adapters):
        if index in shared:
            continue
        for other in adapters[:index]:
            names = [_block_names(one) for one in (adapter, other)]
            mine, theirs = ({name.family for name in found} - {None} for found in names)
            if mine and theirs and not mine & theirs:
                raise AdapterError(
                    f"The LoRAs are for different architectures: {_file_name(other)} and {_file_name(adapter)} have no "
                    "module in common and name other kinds of blocks",
                    file=adapter.file,
                    key=next(iter(adapter.modules)),
                    hint="Only LoRAs for one architecture can be merged.",
                )
            mine, theirs = ({name.scheme for name in found} for found in names)
            if mine and theirs and not mine & theirs and not resolved:
                raise AdapterError(
                    f"{_file_name(adapter)} and {_file_name(other)} name the model's blocks in two different ways, and "
                    "which names mean the same weight is not known for this architecture",
                    file=adapter.file,
                    key=next(iter(adapter.modules)),
                    hint="Give the base model: --base on the command line, the model input of the node.",
                )


def _check_families(adapters: Sequence[Adapter]) -> None:
    """AdapterError when two adapters' names and widths leave no family of models in common."""
    seen: dict[tuple[str, ...], Adapter] = {}
    for adapter in adapters:
        denoiser = {key: m.shape for key, m in adapter.modules.items() if not is_text(key)}
        families = one_family(adapter_families(denoiser))
        if families:
            seen.setdefault(families, adapter)
    if any(not set(one) & set(other) for one in seen for other in seen):
        looks = (f"{_file_name(adapter)} looks like one for {OR.join(family)}" for family, adapter in seen.items())
        raise AdapterError(
            f"The LoRAs are for different architectures: {'; '.join(looks)}",
            hint="Only LoRAs for one architecture can be merged.",
        )


def _check_base(adapter: Adapter, base: Base) -> None:
    """WrongBaseError when nothing of the adapter fits the base, or a shape does not."""
    try:
        plan(adapter, base, base)
    except WrongBaseError as error:
        raise error.at(hint="Leave it out.") from None


def _block_names(adapter: Adapter) -> set[BlockNames]:
    return block_names(key for key in adapter.modules if not is_text(key))


def _file_name(adapter: Adapter) -> str:
    return re.split(r"[\\/]", adapter.file)[-1] if adapter.file else "a LoRA without a file name"
