"""What other programs' loaders will not read of an adapter as it is written, in plain words."""

from __future__ import annotations

from ..adapters import Adapter
from ..adapters.alphas import uneven_alphas
from ..names import adapter_families, metadata_architecture
from ..names.guess import UNKNOWN
from ..names.guess_adapter import OR
from ..names.keys import is_text_encoder

# Families whose diffusers and PEFT keys ComfyUI 0.33 maps to its own names (comfy/lora.py).
_DIFFUSERS_READ = {"SD3", "SD3.5 medium", "SD3.5 large", "Flux", "Flux.2", "Chroma", "Qwen-Image", "Z-Image"}
_DIFFUSERS_READ |= {"HiDream", "PixArt", "AuraFlow", "Krea 2", "Kandinsky 5", "Ernie-Image"}
_PEFT_READ = {"SD3", "SD3.5 medium", "SD3.5 large", "PixArt", "HunyuanDiT", "ACE-Step 1.5"}
LANGUAGE_MODEL = "language model"  # as names.guess calls the family


def unread(adapter: Adapter) -> list[str]:
    """Sentences for the user about loaders that skip or misread a file in this adapter's layout; none where none do."""
    return [*_by_comfyui(adapter), *_scales(adapter), *_by_diffusers(adapter), *_by_peft(adapter)]


def _by_comfyui(adapter: Adapter) -> list[str]:
    read = {"diffusers": _DIFFUSERS_READ, "peft": _PEFT_READ}.get(adapter.layout)
    shapes = {key: module.shape for key, module in adapter.modules.items() if not is_text_encoder(key)}
    if read is None or not shapes:
        return []
    families = adapter_families(shapes)
    named = metadata_architecture(adapter.metadata)
    families = (named,) if named in (families or (named,)) and named != UNKNOWN else families
    if not families:
        return []
    if read & {*families}:
        doras = sum(module.kind == "dora" for module in adapter.modules.values())
        return (
            [f"ComfyUI reads no magnitudes of PEFT's DoRA and applies a plain LoRA ({doras} modules)."] if doras else []
        )
    if families == (LANGUAGE_MODEL,):
        return [
            f"ComfyUI, which knows language models as text encoders, reads no {adapter.layout} files of them: "
            "lora-graft convert --layout comfy --base ENCODER.safetensors makes one that it reads."
        ]
    return [
        f"ComfyUI has no names for {adapter.layout} files of {OR.join(families)} and skips their modules; "
        "it reads the comfy and kohya layouts."
    ]


def _scales(adapter: Adapter) -> list[str]:
    scaled = sum(module.config_scale not in (None, 1.0) for module in adapter.modules.values())
    if not scaled:
        return []
    return [
        f"The strength of {scaled} modules stands in PEFT's configuration alone, which ComfyUI passes over; "
        "lora-graft convert writes it into the tensors."
    ]


def _by_diffusers(adapter: Adapter) -> list[str]:
    uneven = uneven_alphas(adapter.modules)
    if not uneven:
        return []
    return [
        "diffusers gives every module of a UNet or CLIP in the kohya layout the file's commonest alpha, and "
        f"{len(uneven)} here have another ({next(iter(uneven))}, for one): their strength is wrong there. "
        "The diffusers layout has no alphas. ComfyUI and sd-scripts read this file right."
    ]


def _by_peft(adapter: Adapter) -> list[str]:
    kinds = sorted(kind for kind in adapter.kinds if kind in ("lora", "loha", "lokr", "dora"))
    if adapter.layout != "peft" or len(kinds) < 2:
        return []
    return [f"PEFT loads one kind of adapter from a file, and this one holds {' and '.join(kinds)}."]
