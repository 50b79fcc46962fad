"""Where an adapter's module lands in a base, and the two-way dictionary of names for it.

The canonical name of a weight is ComfyUI's own: ``diffusion_model.<checkpoint name>.weight`` for the
denoiser, ``clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight`` (and ``clip_g``, ``clip_h``,
``t5xxl`` …) for text encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .. import choices
from .encoders import spellings
from .keys import DENOISER, parse_key

Shape = tuple[int, ...]


class WeightSlice(NamedTuple):
    """What an adapter's module changes: a weight, or rows of it.

    name: canonical name of the weight.
    rows: (start, length) on dimension 0 when the module is a slice of a fused weight, else None.
    swap: the module's two row halves are the weight's in exchanged order. Diffusers stores the (scale, shift)
        of a final modulation the other way round than the checkpoint; nothing else uses this.
    """

    name: str
    rows: tuple[int, int] | None = None
    swap: bool = False


class StoredPart(NamedTuple):
    """A piece of a stored tensor: rows (start, length) of ``key``; a canonical weight is a stack of parts."""

    key: str
    rows: tuple[int, int] | None = None
    transpose: bool = False


def module_of(name: str) -> str:
    """A weight's name without its ``.weight`` ending; biases and bare parameters keep their full name."""
    return name.removesuffix(".weight")


def own_module(weight_slice: WeightSlice) -> str:
    """The module name in the checkpoint's own words, without the wrapper prefix."""
    return module_of(weight_slice.name).removeprefix(DENOISER)


# When a base knows no name in the wanted style, these are tried in turn; ComfyUI reads each like the first.
_SIBLINGS = {
    "kohya": ("kohya-diffusers",),
    "kohya-diffusers": ("kohya",),
    "te-kohya": ("te-kohya-numbered",),
    "te-kohya-numbered": ("te-kohya",),
    "processor": ("diffusers",),
    "processor-bare": ("bare", "diffusers"),
    "peft": ("diffusers", "bare", "comfy"),
    "peft-unet": ("diffusers", "comfy"),
    "onetrainer": ("diffusers", "comfy"),
    "lycoris": ("diffusers", "comfy"),
    "bare": ("diffusers", "comfy"),
    "diffusers": ("comfy",),
}


def style_of(key: str, weight_slice: WeightSlice | None = None) -> str:
    """The naming style of an adapter's module key, by its prefix.

    ``lora_unet_`` alone does not tell the checkpoint's names from diffusers' names; ``weight_slice`` does.
    """
    if key.startswith("lora_unet_"):
        own = weight_slice is None or key[len("lora_unet_") :].lstrip("_") == own_module(weight_slice).replace(".", "_")
        return "kohya" if own else "kohya-diffusers"
    if ".processor." in key:
        return "processor" if key.startswith("unet.") else "processor-bare"
    return parse_key(key).style


class Names:
    """Every adapter key a base understands, and back again.

    Args:
        aliases: module key (no ``.lora_up.weight`` or other suffix) -> WeightSlice. The order counts: of two aliases of
            one weight_slice in one style, ``key_for`` gives the first.
        kohya: which of the two ``lora_unet_`` spellings the kohya layout means for this base: "own" (SDXL, SD3,
            Flux) or "diffusers" (SD 1.5 and 2).
        shapes: canonical weight name -> shape, as far as known; tells how high a fused weight is.
    """

    def __init__(
        self, aliases: Mapping[str, WeightSlice], *, kohya: str = "own", shapes: Mapping[str, Shape] | None = None
    ):
        self.aliases: dict[str, WeightSlice] = dict(aliases)
        self.kohya = kohya
        self.shapes: dict[str, Shape] = dict(shapes or {})
        self._reverse: dict[tuple[WeightSlice, str], str] | None = None
        self._slices: dict[str, set[tuple[int, int]]] | None = None

    def resolve(self, key: str) -> WeightSlice | None:
        """The weight slice of a module key, or None. Known spelling variants of old trainers are understood."""
        for candidate in _spellings(key):
            weight_slice = self.aliases.get(candidate)
            if weight_slice is not None:
                return weight_slice
        return None

    def shape(self, weight_slice: WeightSlice, shapes: Mapping[str, Shape] | None = None) -> Shape | None:
        """Shape of the weight, or of the rows of it that the weight slice names; None when it is not known.

        shapes: of the weights, where another source knows better than these names.
        """
        whole = (self.shapes if shapes is None else shapes).get(weight_slice.name)
        return whole if whole is None or weight_slice.rows is None else (weight_slice.rows[1], *whole[1:])

    def key_for(self, weight_slice: WeightSlice, style: str) -> str | None:
        """A module key in ``style`` (see style_of), or in the nearest style ComfyUI reads alike."""
        if self._reverse is None:
            self._reverse = {}
            for key, target in self.aliases.items():
                self._reverse.setdefault((target, style_of(key, target)), key)
        for candidate in (style, *_SIBLINGS.get(style, ())):
            key = self._reverse.get((weight_slice, candidate))
            if key is not None:
                return key
        return None

    def slices(self, name: str) -> set[tuple[int, int]]:
        """The finest row slices (start, length) of a fused weight that adapters address; empty when not fused."""
        if self._slices is None:
            self._slices = {}
            for weight_slice in self.aliases.values():
                if weight_slice.rows is not None:
                    self._slices.setdefault(weight_slice.name, set()).add(weight_slice.rows)
        rows = self._slices.get(name, set())
        return {one for one in rows if not any(other != one and _inside(other, one) for other in rows)}

    def rekey(self, key: str, source: WeightSlice, target: WeightSlice) -> str | None:
        """The key under which a module, read as ``key`` from ``source``, is written for ``target`` of this base.

        The very same key where it already means the target, else the target's key in the same style.
        """
        if self.resolve(key) == target:
            return key
        return self.key_for(target, style_of(key, source))

    def _language(self, weight_slice: WeightSlice) -> bool:
        """Whether the base is one language model, alone, with this weight in it."""
        encoder = weight_slice.name.split(".")[0]
        return not encoder.startswith("clip_") and all(name.startswith(encoder + ".") for name in self.shapes)

    def layout_key(self, weight_slice: WeightSlice, layout: str) -> str | None:
        """The key for ``weight_slice`` in one of ``choices.File.layouts``; None where that has no name (a slice)."""
        text = not weight_slice.name.startswith(DENOISER)
        if layout == "kohya":
            own = "kohya" if self.kohya == "own" else "kohya-diffusers"
            return self.key_for(
                weight_slice, ("te-kohya-numbered" if self.kohya == "own" else "te-kohya") if text else own
            )
        if layout in ("diffusers", "peft"):
            return self.key_for(weight_slice, "diffusers" if text and not self._language(weight_slice) else layout)
        if layout == "comfy":
            return self.key_for(weight_slice, "comfy")
        raise ValueError(f"unknown layout {layout!r}; one of {', '.join(choices.File.layouts)}")


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and sum(inner) <= sum(outer)


def _spellings(key: str):
    """The key itself, then what other tools call the same module."""
    yield key
    if key.endswith("_lora"):
        yield from _spellings(key[: -len("_lora")])
    if key.endswith(".weight"):
        yield from _spellings(key[: -len(".weight")])
    if key.startswith("lora_unet__"):
        yield "lora_unet_" + key[len("lora_unet__") :]
    if key.startswith("model.diffusion_model."):
        yield key[len("model.") :]
    if ".processor.to_" in key:
        plain = key.replace(".processor.to_", ".to_")
        yield plain
        yield plain + ".0"
    if key.startswith("unet.base_model.model."):
        yield "unet." + key[len("unet.base_model.model.") :]
    for encoder in ("text_encoder.", "text_encoder_2.", "text_encoder_3."):
        if key.startswith(encoder + "base_model.model."):
            yield encoder + key[len(encoder + "base_model.model.") :]
        if key.startswith(encoder + "encoder.layers."):  # CLIP as transformers 5 names it
            yield encoder + "text_model." + key[len(encoder) :]
    yield from spellings(key)
    if key.startswith("base_model.model."):
        yield DENOISER + key[len("base_model.model.") :]
    if key.startswith("pipe.dit."):
        yield DENOISER + key[len("pipe.dit.") :]
