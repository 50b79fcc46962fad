"""From one layout to another: every module finds its place in the base, then its key and suffixes there.

    kohya      lora_unet_… / lora_te…   .lora_up.weight .lora_down.weight .alpha     fused weights whole
    comfy      diffusion_model.… / text_encoders.…   the same suffixes               fused weights whole
    diffusers  unet.… / transformer.… / text_encoder.…   .lora_A.weight .lora_B.weight   fused weights as q, k, v
    peft       base_model.model.…       the same suffixes                            fused weights as q, k, v

diffusers and PEFT write no alpha: the scale is folded into the factors. LoHa and LoKr stay what they are in kohya,
comfy and peft; diffusers gets their exact LoRA. What a layout has no word for is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

import torch

from ..errors import AdapterError
from . import rows
from .dora import SCALE, Dora
from .ia3 import PEFT_L, Ia3
from .layouts import layout_of, lora_module
from .loha import PAIRS, Loha
from .lokr import W1, W1A, Lokr
from .lora import KOHYA, MID, RESHAPE, Lora
from .metadata import settled, without_configs
from .model import ALPHA, Adapter, AdapterModule

_FOLDED = ("diffusers", "peft")


def convert(adapter: Adapter, layout: str, names: Any) -> Adapter:
    """The adapter with other keys and suffixes and the same ΔW for every weight.

    Raises:
        AdapterError: a module has no place in the base, or cannot be said in this layout; slices do not fit their
            fused weight, or it is not known how high that is.
    """
    adapter = replace(settled(adapter), metadata=without_configs(adapter.metadata))
    places: dict[str, list[tuple[AdapterModule, Any]]] = {}
    for key, module in adapter.modules.items():
        weight_slice = names.resolve(key)
        if weight_slice is None:
            raise AdapterError(
                "The module has no place in this base model",
                file=adapter.file,
                key=key,
                hint="Name the base the adapter was made for.",
            )
        places.setdefault(weight_slice.name, []).append((module, weight_slice))
    modules: dict[str, AdapterModule] = {}
    for name, group in places.items():
        shape = names.shapes.get(name)
        for module in _placed(group, _targets(names, name, layout, group), shape):
            said = _said(module, layout, shape)
            if said.key in modules:
                said.fail("Two modules of the adapter change the same weight")
            modules[said.key] = said
    return replace(adapter, modules=modules, aliases={})


def _targets(names: Any, name: str, layout: str, group: list[tuple[AdapterModule, Any]]) -> list[tuple[str, Any]]:
    """Keys and weight slices that the weight has in this layout: the whole one, or slices that tile it."""
    example = group[0][1]

    def key_of(weight_slice: Any) -> str | None:
        key = names.layout_key(weight_slice, layout)
        fitting = (layout, "diffusers") if layout == "peft" else (layout,)
        return key if key and layout_of([key]) in fitting else None

    cuts = sorted(names.slices(name))
    slices = [
        (key_of(weight_slice), weight_slice)
        for weight_slice in (example._replace(rows=cut, swap=False) for cut in cuts)
    ]
    tiled = (
        bool(cuts)
        and all(key for key, _ in slices)
        and all(sum(a) == b[0] for a, b in zip([(0, 0), *cuts], cuts, strict=False))
    )
    wholes = [
        (key_of(weight_slice), weight_slice)
        for weight_slice in (
            example._replace(rows=None, swap=swap) for swap in ((True, False) if layout in _FOLDED else (False, True))
        )
    ]
    whole = next(([(key, weight_slice)] for key, weight_slice in wholes if key), [])
    targets = slices if tiled and (layout in _FOLDED or not whole) else whole
    if not targets:
        group[0][0].fail(f"The {layout} layout has no name for {name}", hint="Choose another layout.")
    return targets


def _placed(
    group: list[tuple[AdapterModule, Any]], targets: list[tuple[str, Any]], shape: tuple[int, ...] | None
) -> Iterable[AdapterModule]:
    """The group's modules under the targets' keys: renamed, fused or split as the row ranges ask.

    shape: of the whole weight, None when not known.
    """
    wanted = {weight_slice.rows: (key, weight_slice) for key, weight_slice in targets}
    group = [(_swapped(module) if weight_slice.swap else module, weight_slice) for module, weight_slice in group]
    if all(weight_slice.rows in wanted for _, weight_slice in group):
        for module, weight_slice in group:
            key, target = wanted[weight_slice.rows]
            yield (_swapped(module) if target.swap else module).renamed(key)
        return
    total = _height(group, targets, shape)
    whole = (
        group[0][0]
        if len(group) == 1 and group[0][1].rows is None
        else rows.fuse(
            [(module, weight_slice.rows or (0, total)) for module, weight_slice in group], total, group[0][0].key
        )
    )
    for key, weight_slice in targets:
        start, length = weight_slice.rows or (0, total)
        part = rows.take(whole, slice(start, start + length)) if weight_slice.rows else whole
        if part is not None:
            yield part.renamed(key)


def _height(
    group: list[tuple[AdapterModule, Any]], targets: list[tuple[str, Any]], shape: tuple[int, ...] | None
) -> int:
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


def _swapped(module: AdapterModule) -> AdapterModule:
    """The module with the halves of its rows exchanged (scale and shift of a final modulation)."""
    count = module.shape[0] if module.shape else module.bias().shape[0]
    out = rows.take(module, torch.arange(count).roll(count // 2))
    return module if out is None else out


def _said(module: AdapterModule, layout: str, shape: tuple[int, ...] | None) -> AdapterModule:
    """The module in the layout's suffixes, or AdapterError; ``shape``: of the whole weight, where it is known."""
    if isinstance(module, Dora):
        if (module.suffix == SCALE) == (layout in _FOLDED):
            module.fail(
                f"The {layout} layout defines DoRA's magnitudes by another norm",
                suffix=module.suffix,
                hint="Turn the module into a plain update with its base weight first.",
            )
        inner = _said(module.inner, layout, shape)
        return replace(module, tensors={**inner.tensors, module.suffix: module.tensors[module.suffix]}, inner=inner)
    if layout in _FOLDED:
        return _folded(module, layout, shape)
    if isinstance(module, Ia3) and PEFT_L in module.tensors:
        module.fail(f"PEFT's IA3 has no form in the {layout} layout", suffix=PEFT_L)
    if isinstance(module, Lora):
        return _with_alpha(module)
    if isinstance(module, (Loha, Lokr)) and module.rank and ALPHA not in module.tensors:
        alpha = torch.tensor(float(module.scale() * module.rank))
        return replace(module, told=None, tensors={**module.tensors, ALPHA: alpha})
    return module


def _with_alpha(module: Lora) -> Lora:
    """A LoRA as kohya and ComfyUI spell it, factors untouched."""
    up, down = module.factors()
    alpha = module.tensors.get(ALPHA, torch.tensor(float(module.scale() * module.rank)))
    kept = {s: module.tensors[s] for s in (MID, RESHAPE, ".diff_b", ".b_norm") if s in module.tensors}
    if ".lora_B.bias" in module.tensors:
        kept[".diff_b"] = module.bias().to(module.tensors[".lora_B.bias"].dtype)
    tensors = {KOHYA[0]: up.contiguous(), KOHYA[1]: down.contiguous(), ALPHA: alpha, **kept}
    return Lora(module.key, tensors, file=module.file)


def _folded(module: AdapterModule, layout: str, whole: tuple[int, ...] | None) -> AdapterModule:
    """A module for the layouts without alpha.

    Products for a convolution may be stored flat; PEFT gives a convolution's factors its kernel, so ``whole`` tells.
    """
    if isinstance(module, Ia3) and PEFT_L in module.tensors and layout == "peft":
        return module
    if isinstance(module, (Loha, Lokr)) and layout == "peft" and not module.key.startswith("text_encoder"):
        first = PAIRS[0][0] if isinstance(module, Loha) else W1 if W1 in module.tensors else W1A
        tensors = {s: t for s, t in module.tensors.items() if s != ALPHA}
        tensors[first] = (tensors[first].float() * module.scale()).to(tensors[first].dtype)
        return replace(module, told=None, tensors=tensors)
    if not isinstance(module, (Lora, Loha, Lokr)) or RESHAPE in module.tensors:
        module.fail(
            f"The {layout} layout cannot hold a {module.kind} module",
            hint="Choose kohya or comfy, or turn the module into a plain update first.",
        )
    source = module.factors()[0] if isinstance(module, Lora) else next(t for t in module.tensors.values() if t.ndim > 1)
    dtype = source.dtype if source.element_size() > 1 else torch.float32
    shape = (module.shape[0], *whole[1:]) if whole and prod(whole[1:]) == prod(module.shape[1:]) else module.shape
    out = lora_module(module.key, module.low_rank(), shape=shape, dtype=dtype)
    bias = module.bias()
    return out if bias is None else replace(out, tensors={**out.tensors, ".lora_B.bias": bias.to(dtype)})
