"""Files whose keys follow no key + suffix rule, translated on reading and translated back on writing.

A dialect is a function from the file's tensors to (tensors under our keys, our key -> file key), or None
when the file is not of its kind. A tensor it adds has the file key None and is not written again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import AdapterError
from . import cloneofsimo

Translation = tuple[dict[str, Tensor], dict[str, "str | None"]]
Dialect = Callable[[dict[str, Tensor]], "Translation | None"]

_PROCESSOR = re.compile(
    r"(?P<block>(?:double|single)_blocks\.\d+)\.processor\.(?P<what>qkv|proj)_lora(?P<side>[12]?)"
    r"\.(?P<half>up|down)\.weight$"
)
_PROCESSOR_MODULES = {
    ("qkv", "1"): "img_attn.qkv",
    ("proj", "1"): "img_attn.proj",
    ("qkv", "2"): "txt_attn.qkv",
    ("proj", "2"): "txt_attn.proj",
    ("qkv", ""): "linear1_qkv",
    ("proj", ""): "linear2",
}


def renamed(tensors: dict[str, Tensor], rename: Callable[[str], str]) -> Translation:
    """The tensors under new names.

    Raises:
        AdapterError: two of them would have one name.
    """
    names = {key: rename(key) for key in tensors}
    first: dict[str, str] = {}
    for key, name in names.items():
        if (other := first.setdefault(name, key)) != key:
            raise AdapterError(f"The file holds {other!r} as well, which means the same tensor", key=key)
    return {names[k]: t for k, t in tensors.items()}, {names[k]: k for k in tensors if names[k] != k}


def flux_processors(tensors: dict[str, Tensor]) -> Translation | None:
    """XLabs and USO adapters for Flux: ``double_blocks.0.processor.qkv_lora1.up.weight`` and the like."""
    if not any(_PROCESSOR.search(key) for key in tensors):
        return None

    def rename(key: str) -> str:
        hit = _PROCESSOR.search(key)
        if not hit or (hit["what"], hit["side"]) not in _PROCESSOR_MODULES:
            return key
        module = _PROCESSOR_MODULES[hit["what"], hit["side"]]
        return f"diffusion_model.{hit['block']}.{module}.lora_{hit['half']}.weight"

    return renamed(tensors, rename)


def flux_control(tensors: dict[str, Tensor]) -> Translation | None:
    """Black Forest Labs' control adapters: bare Flux names, bias of B, norm scales, a widened image input."""
    if not (
        {"img_in.lora_A.weight", "img_in.lora_B.weight"} <= tensors.keys()
        and "single_blocks.0.norm.key_norm.scale" in tensors
    ):
        return None

    def rename(key: str) -> str:
        return "diffusion_model." + key.replace(".lora_B.bias", ".diff_b").replace("_norm.scale", "_norm.set_weight")

    out, aliases = renamed(tensors, rename)
    shape = [tensors["img_in.lora_B.weight"].shape[0], tensors["img_in.lora_A.weight"].shape[1]]
    out["diffusion_model.img_in.reshape_weight"] = torch.tensor(shape)
    return out, {**aliases, "diffusion_model.img_in.reshape_weight": None}


def doubled_underscore(tensors: dict[str, Tensor]) -> Translation | None:
    """Wan Fun adapters: ``lora_unet__blocks_0_...`` for ``lora_unet_blocks_0_...``."""
    if not any(key.startswith("lora_unet__") for key in tensors):
        return None
    return renamed(tensors, lambda key: re.sub("^lora_unet__", "lora_unet_", key))


DIALECTS: tuple[Dialect, ...] = (cloneofsimo.translate, flux_control, flux_processors, doubled_underscore)


def translate(tensors: dict[str, Tensor]) -> Translation:
    """The first dialect that recognises the file, else the tensors as they are."""
    for dialect in DIALECTS:
        found = dialect(tensors)
        if found is not None:
            return found
    return tensors, {}
