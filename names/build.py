"""The whole dictionary of adapter keys for a base, from its canonical weight names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import flux, lumina, mmdit, text, unet
from .slot import DENOISER, Names, Shape, Slot, module_of

_STABLE_UNETS = (768, 1024)  # context widths whose kohya files spell blocks as diffusers does


def names_for(weights: Mapping[str, Shape]) -> Names:
    """Names of a base.

    Args:
        weights: canonical weight name -> shape (see slot.py).
    """
    native = {name[len(DENOISER) :]: shape for name, shape in weights.items() if name.startswith(DENOISER)}
    found: dict[str, Slot] = {}
    for name in native:
        slot, module = Slot(DENOISER + name), module_of(name)
        if name.endswith(".weight"):
            found["lora_unet_" + module.replace(".", "_")] = slot
        found[DENOISER + module] = slot

    if unet.is_native(native):
        found.update(_unet_keys(_prefixed(unet.aliases(native))))
    elif mmdit.is_native(native):
        found.update(_transformer_keys(_prefixed(mmdit.aliases(native))))
    elif flux.is_native(native):
        found.update(_transformer_keys(_prefixed(flux.aliases(native))))
        width = flux.hidden_size(native)
        for name in native:
            if re.match(r"single_blocks\.\d+\.linear1\.weight$", name):
                found[f"{DENOISER}{module_of(name)}_qkv"] = Slot(DENOISER + name, (0, 3 * width))
    elif lumina.is_native(native):
        theirs = _prefixed(lumina.aliases(native))
        found.update(_transformer_keys(theirs))
        for key, slot in theirs.items():
            found.setdefault(DENOISER + module_of(key), slot)

    for key, slot in _own_keys(native).items():
        found.setdefault(key, slot)
    context = next((s[-1] for n, s in native.items() if n.endswith("attn2.to_k.weight")), None)
    kohya = "diffusers" if context in _STABLE_UNETS and unet.is_native(native) else "own"
    for key, slot in text.aliases(weights, numbered=kohya == "own").items():
        found.setdefault(key, slot)
    return Names(found, kohya=kohya, shapes=weights)


def _prefixed(theirs: Mapping[str, Slot]) -> dict[str, Slot]:
    return {key: slot._replace(name=DENOISER + slot.name) for key, slot in theirs.items()}


def _unet_keys(theirs: Mapping[str, Slot]) -> dict[str, Slot]:
    """Keys made of diffusers' UNet names: today's spelling, and that of its old attention processors."""
    found: dict[str, Slot] = {}
    for name, slot in theirs.items():
        if not name.endswith(".weight"):
            found.setdefault("unet." + name, slot)
            continue
        module = module_of(name)
        flat = module.replace(".", "_")
        old = re.sub(r"(\.processor\.to_out)\.0$", r"\1", module.replace(".to_", ".processor.to_"))
        found["lora_unet_" + flat] = slot
        found["lycoris_" + flat] = slot
        for prefix in ("unet.", ""):
            found[prefix + module] = slot
            found[prefix + old] = slot
        found["base_model.model." + module] = slot
        found["unet.base_model.model." + module] = slot
    return found


def _transformer_keys(theirs: Mapping[str, Slot]) -> dict[str, Slot]:
    """Keys made of diffusers' transformer names."""
    found: dict[str, Slot] = {}
    for name, slot in theirs.items():
        if not name.endswith(".weight"):
            found["transformer." + name] = slot
            continue
        module = module_of(name)
        flat = module.replace(".", "_")
        found["transformer." + module] = slot
        found["base_model.model." + module] = slot
        found["lora_transformer_" + flat] = slot
        found["lycoris_" + flat] = slot
        found["lora_unet_" + flat] = slot
        found[module] = slot
    return found


def _own_keys(native: Mapping[str, Shape]) -> dict[str, Slot]:
    """Keys made of the checkpoint's own names: Wan, Qwen-Image, language models in PEFT layout, any other."""
    found: dict[str, Slot] = {}
    for name in native:
        slot, module = Slot(DENOISER + name), module_of(name)
        for prefix in ("", "transformer.", "base_model.model."):
            found[prefix + module] = slot
        if name.endswith(".weight"):
            found["lycoris_" + module.replace(".", "_")] = slot
    return found
