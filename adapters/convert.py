"""From one layout to another: every module finds its weight in the base, then its key and suffixes there.

    kohya      lora_unet_… / lora_te…   .lora_up.weight .lora_down.weight .alpha     fused weights whole
    comfy      diffusion_model.… / text_encoders.…   the same suffixes               fused weights whole
    diffusers  unet.… / transformer.… / text_encoder.…   .lora_A.weight .lora_B.weight   fused weights as q, k, v
    peft       base_model.model.…       the same suffixes                            fused weights as q, k, v

diffusers and PEFT write no alpha: the scale goes into the factors. LoHa and LoKr stay what they are in kohya, comfy
and peft; diffusers gets their exact LoRA. What a layout has no word for is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from .. import choices
from ..errors import AdapterError, SettingsError
from ..names import Names, WeightSlice
from . import rows
from .adapter import Adapter
from .alphas import with_one_alpha
from .dora import SCALE, Dora
from .ia3 import PEFT_L, Ia3
from .layouts import kernel_shape, layout_of, lora_module
from .loha import PAIRS, Loha
from .lokr import W1, W1A, Lokr
from .lora import RESHAPE, Lora
from .metadata import without_configs
from .module import ALPHA, AdapterModule

_WITHOUT_ALPHA = ("diffusers", "peft")
Sliced = tuple[AdapterModule, WeightSlice]  # a module and the rows of the weight that it changes
Target = tuple[str, WeightSlice]  # a key and the rows of the weight that it stands for


def convert(adapter: Adapter, layout: str, names: Names | None) -> Adapter:
    """The adapter with other keys and suffixes and the same ΔW for every weight.

    Raises:
        AdapterError: a module has no weight in the base, or cannot be expressed in this layout; slices do not fit
            their fused weight, or it is not known how high that is.
        SettingsError: an unknown layout, or no names.
    """
    if layout not in choices.File.layouts:
        raise SettingsError(f"Unknown layout {layout!r}; choose one of same, {', '.join(choices.File.layouts)}")
    if names is None:
        raise SettingsError(
            "Changing the layout needs the names of a base model's weights",
            hint="Give the base, or a file whose architecture can be recognised.",
        )
    adapter = replace(adapter.with_alphas(), metadata=without_configs(adapter.metadata))
    by_weight: dict[str, list[Sliced]] = {}
    for key, module in adapter.modules.items():
        weight_slice = names.resolve(key)
        if weight_slice is None:
            raise AdapterError(
                "The module has no place in this base model",
                file=adapter.file,
                key=key,
                hint="Name the base the adapter was made for.",
            )
        by_weight.setdefault(weight_slice.name, []).append((module, weight_slice))
    modules: dict[str, AdapterModule] = {}
    for name, group in by_weight.items():
        shape = names.shapes.get(name)
        for module in _retargeted(group, _targets(names, name, layout, group), shape):
            spelled = _spelled(module, layout, shape)
            if spelled.key in modules:
                spelled.fail("Two modules of the adapter change the same weight")
            modules[spelled.key] = spelled
    return replace(adapter, modules=with_one_alpha(modules), aliases={}, layout=layout)


def _targets(names: Names, name: str, layout: str, group: Sequence[Sliced]) -> list[Target]:
    """Keys and weight slices that the weight has in this layout: the whole one, or slices that tile it."""
    example = group[0][1]

    def target(rows: tuple[int, int] | None, swap: bool) -> Target | None:
        weight_slice = example._replace(rows=rows, swap=swap)
        key = names.layout_key(weight_slice, layout)
        fitting = (layout, "diffusers") if layout == "peft" else (layout,)
        return (key, weight_slice) if key and layout_of([key]) in fitting else None

    ranges = sorted(names.slices(name))
    slices = [found for rows in ranges if (found := target(rows, False))]
    tiled = (
        bool(ranges)
        and len(slices) == len(ranges)
        and all(sum(a) == b[0] for a, b in zip([(0, 0), *ranges], ranges, strict=False))
    )
    swaps = (True, False) if layout in _WITHOUT_ALPHA else (False, True)
    whole = [found for swap in swaps if (found := target(None, swap))][:1]
    targets = slices if tiled and (layout in _WITHOUT_ALPHA or not whole) else whole
    if not targets:
        group[0][0].fail(f"The {layout} layout has no name for {name}", hint="Choose another layout.")
    return targets


def _retargeted(
    group: Sequence[Sliced], targets: Sequence[Target], shape: tuple[int, ...] | None
) -> Iterable[AdapterModule]:
    """The group's modules under the targets' keys: renamed, fused or split as the row ranges ask.

    shape: of the whole weight, None when not known.
    """
    wanted = {weight_slice.rows: (key, weight_slice) for key, weight_slice in targets}
    group = [
        (rows.swap_halves(module) if weight_slice.swap else module, weight_slice) for module, weight_slice in group
    ]
    if all(weight_slice.rows in wanted for _, weight_slice in group):
        for module, weight_slice in group:
            key, target = wanted[weight_slice.rows]
            yield (rows.swap_halves(module) if target.swap else module).renamed(key)
        return
    total = _height(group, targets, shape)
    if len(group) == 1 and group[0][1].rows is None:
        whole = group[0][0]
    else:
        parts = [(module, weight_slice.rows or (0, total)) for module, weight_slice in group]
        whole = rows.fuse(parts, total, group[0][0].key)
    for key, weight_slice in targets:
        part = rows.take(whole, *weight_slice.rows) if weight_slice.rows else whole
        if part is not None:
            yield part.renamed(key)


def _height(group: Sequence[Sliced], targets: Sequence[Target], shape: tuple[int, ...] | None) -> int:
    """Rows of the whole weight, from its shape or from a module for all of it."""
    if shape:
        for module, weight_slice in group:
            wanted = (weight_slice.rows[1] if weight_slice.rows else shape[0], *shape[1:])
            if module.shape and not module.fits(wanted):
                module.fail(
                    f"The update is {module.shape} but its part of {weight_slice.name} is {wanted}",
                    hint="The adapter was made for another model; give that one as the base.",
                )
        return shape[0]
    wholes = [module.shape[0] for module, weight_slice in group if weight_slice.rows is None and module.shape]
    if not wholes and any(weight_slice.rows is None for _, weight_slice in targets):
        group[0][0].fail(
            "The adapter changes some rows of a fused weight, and how many it has in all is not known",
            hint="Give the base (--base on the command line, the model input of the node).",
        )
    return max([*wholes, *(sum(weight_slice.rows) for _, weight_slice in (*group, *targets) if weight_slice.rows)])


def _spelled(module: AdapterModule, layout: str, shape: tuple[int, ...] | None) -> AdapterModule:
    """The module in the layout's suffixes, or AdapterError; shape: of the whole weight, where it is known."""
    if isinstance(module, Dora):
        if (module.suffix == SCALE) == (layout in _WITHOUT_ALPHA):
            module.fail(
                f"The {layout} layout defines DoRA's magnitudes by another norm",
                suffix=module.suffix,
                hint="Turn the module into a plain update with its base weight first.",
            )
        inner = _spelled(module.inner, layout, shape)
        return replace(module, tensors={**inner.tensors, module.suffix: module.tensors[module.suffix]}, inner=inner)
    if layout in _WITHOUT_ALPHA:
        return _without_alpha(module, layout, shape)
    if isinstance(module, Ia3) and PEFT_L in module.tensors:
        module.fail(f"PEFT's IA3 has no form in the {layout} layout", suffix=PEFT_L)
    if isinstance(module, Lora):
        return module.in_kohya()
    if isinstance(module, (Loha, Lokr)) and module.rank and ALPHA not in module.tensors:
        alpha = torch.tensor(float(module.scale() * module.rank))
        return replace(module, config_scale=None, tensors={**module.tensors, ALPHA: alpha})
    return module


def _without_alpha(module: AdapterModule, layout: str, whole: tuple[int, ...] | None) -> AdapterModule:
    """A module for the layouts that know no alpha: the scale goes into a factor.

    Products for a convolution may be stored flat; PEFT gives a convolution's factors its kernel, so ``whole`` tells.
    """
    if isinstance(module, Ia3) and PEFT_L in module.tensors and layout == "peft":
        return module
    if isinstance(module, (Loha, Lokr)) and layout == "peft" and not module.key.startswith("text_encoder"):
        first = PAIRS[0][0] if isinstance(module, Loha) else W1 if W1 in module.tensors else W1A
        tensors = {s: t for s, t in module.tensors.items() if s != ALPHA}
        tensors[first] = (tensors[first].float() * module.scale()).to(tensors[first].dtype)
        return replace(module, config_scale=None, tensors=tensors)
    if not isinstance(module, (Lora, Loha, Lokr)) or RESHAPE in module.tensors:
        module.fail(
            f"The {layout} layout cannot hold a {module.kind} module",
            hint="Choose kohya or comfy, or turn the module into a plain update first.",
        )
    source = module.factors()[0] if isinstance(module, Lora) else next(t for t in module.tensors.values() if t.ndim > 1)
    dtype = source.dtype if source.element_size() > 1 else torch.float32
    shape = kernel_shape(module.shape, whole)
    out = lora_module(module.key, module.low_rank(), shape=shape, dtype=dtype)
    bias = module.bias()
    return out if bias is None else replace(out, tensors={**out.tensors, ".lora_B.bias": bias.to(dtype)})
