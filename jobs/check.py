"""The last check before an adapter is handed on: every module has the shape of the weight it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..adapters import AdapterModule
from ..adapters.lora import RESHAPE
from ..names import Names
from .text import times


def check_fits(
    modules: Iterable[AdapterModule], names: Names | None, weights: Mapping[str, tuple[int, ...]] | None = None
) -> None:
    """Refuses modules that a loader would skip because they do not have their weight's shape.

    Modules that the names do not know, and those that say themselves how the weight is to be padded, pass.

    Args:
        names: of the model the adapter is for; None when it is not known: nothing can be checked.
        weights: shapes of the very model's weights. Without them the names' own shapes count, and for fused weights
            alone: variants of a model (inpainting, depth) differ in the size of their first layer.

    Raises:
        AdapterError: naming the file, the module and both shapes.
    """
    if names is None:
        return
    for module in modules:
        weight_slice = names.resolve(module.key)
        if weight_slice is None or weights is None and not names.slices(weight_slice.name):
            continue
        wanted = names.shape(weight_slice, weights)
        if wanted is None or module.shape is None or RESHAPE in module.tensors:
            continue
        if not module.fits(wanted):
            module.fail(
                f"The module's update is {times(module.shape)}, "
                f"but {weight_slice.name} of the model is {times(wanted)} there",
                hint="Nothing was written. Give the base the adapter was made for.",
            )
