"""The whole dictionary of adapter keys for a base, from its canonical weight names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from . import aura, flux, flux2, hunyuan, krea2, language, lumina, mmdit, pixart, text, unet, wan
from .weight_slice import DENOISER, Names, Shape, WeightSlice, module_of

_STABLE_UNETS = (768, 1024)  # context widths whose kohya files spell blocks as diffusers does


def names_for(weights: Mapping[str, Shape]) -> Names:
    """Names of a base.

    Args:
        weights: canonical weight name -> shape (see weight_slice.py).
    """
    native = {name[len(DENOISER) :]: shape for name, shape in weights.items() if name.startswith(DENOISER)}
    found: dict[str, WeightSlice] = {}
    for name in native:
        weight_slice, module = WeightSlice(DENOISER + name), module_of(name)
        if name.endswith(".weight"):
            found["lora_unet_" + module.replace(".", "_")] = weight_slice
        found[DENOISER + module] = weight_slice

    if unet.is_native(native):
        found.update(_unet_keys(_prefixed(unet.aliases(native))))
    elif mmdit.is_native(native):
        found.update(_transformer_keys(_prefixed(mmdit.aliases(native))))
    elif flux.is_native(native):
        theirs = flux2.aliases(native) if flux2.is_native(native) else flux.aliases(native)
        found.update(_transformer_keys(_prefixed(theirs)))
        width = flux.hidden_size(native)
        for name in native:
            if re.match(r"single_blocks\.\d+\.linear1\.weight$", name):
                found[f"{DENOISER}{module_of(name)}_qkv"] = WeightSlice(DENOISER + name, (0, 3 * width))
        if hunyuan.is_native(native):
            found.update(_transformer_keys(_prefixed(hunyuan.aliases(native))))
            for module, weight_slice in _prefixed(hunyuan.tencent(native)).items():
                found.setdefault(f"transformer.{module}", weight_slice)
                found.setdefault(DENOISER + module, weight_slice)
                found.setdefault("lora_unet_" + module.replace(".", "_"), weight_slice)
    elif wan.is_native(native):
        found.update(_transformer_keys(_prefixed(wan.aliases(native))))
    elif lumina.is_native(native):
        theirs = _prefixed(lumina.aliases(native))
        found.update(_transformer_keys(theirs))
        for key, weight_slice in theirs.items():
            found.setdefault(DENOISER + module_of(key), weight_slice)

    else:
        for model in (aura, pixart, krea2):
            if model.is_native(native):
                found.update(_transformer_keys(_prefixed(model.aliases(native))))
    if pixart.is_native(native):
        for key, weight_slice in _prefixed(pixart.aliases(native)).items():
            found.setdefault("unet.base_model.model." + module_of(key), weight_slice)
    if krea2.is_native(native):
        for key, weight_slice in _prefixed(krea2.aliases(native)).items():
            found.setdefault(DENOISER + module_of(key), weight_slice)
    found.update(_decoder_keys(native))

    for key, weight_slice in {**language.aliases(native), **_own_keys(native)}.items():
        found.setdefault(key, weight_slice)
    context = next((s[-1] for n, s in native.items() if n.endswith("attn2.to_k.weight")), None)
    kohya = "diffusers" if context in _STABLE_UNETS and unet.is_native(native) else "own"
    for key, weight_slice in text.aliases(weights, numbered=kohya == "own").items():
        found.setdefault(key, weight_slice)
    return Names(found, kohya=kohya, shapes=weights)


def _prefixed(theirs: Mapping[str, WeightSlice]) -> dict[str, WeightSlice]:
    return {key: weight_slice._replace(name=DENOISER + weight_slice.name) for key, weight_slice in theirs.items()}


def _unet_keys(theirs: Mapping[str, WeightSlice]) -> dict[str, WeightSlice]:
    """Keys made of diffusers' UNet names: today's spelling, and that of its old attention processors."""
    found: dict[str, WeightSlice] = {}
    for name, weight_slice in theirs.items():
        if not name.endswith(".weight"):
            found.setdefault("unet." + name, weight_slice)
            continue
        module = module_of(name)
        flat = module.replace(".", "_")
        old = re.sub(r"(\.processor\.to_out)\.0$", r"\1", module.replace(".to_", ".processor.to_"))
        found["lora_unet_" + flat] = weight_slice
        found["lycoris_" + flat] = weight_slice
        for prefix in ("unet.", ""):
            found[prefix + module] = weight_slice
            found[prefix + old] = weight_slice
        found["base_model.model." + module] = weight_slice
        found["unet.base_model.model." + module] = weight_slice
    return found


def _transformer_keys(theirs: Mapping[str, WeightSlice]) -> dict[str, WeightSlice]:
    """Keys made of diffusers' transformer names."""
    found: dict[str, WeightSlice] = {}
    for name, weight_slice in theirs.items():
        if not name.endswith(".weight"):
            found["transformer." + name] = weight_slice
            continue
        module = module_of(name)
        flat = module.replace(".", "_")
        found["transformer." + module] = weight_slice
        found["base_model.model." + module] = weight_slice
        found["lora_transformer_" + flat] = weight_slice
        found["lycoris_" + flat] = weight_slice
        found["lora_unet_" + flat] = weight_slice
        found[module] = weight_slice
    return found


def _decoder_keys(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Keys of parts that trainers train alone: ACE-Step 1.5's decoder, and the prior of Stable Cascade."""
    found: dict[str, WeightSlice] = {}
    if "encoder.lyric_encoder.layers.0.input_layernorm.weight" in native:
        for inner, weight_slice in _modules(native, "decoder."):
            found["base_model.model." + inner] = weight_slice
            found["lycoris_" + inner.replace(".", "_")] = weight_slice
    if "clip_txt_mapper.weight" in native:
        for inner, weight_slice in _modules(native, ""):
            found["lora_prior_unet_" + inner.replace(".", "_")] = weight_slice
    return found


def _modules(native: Mapping[str, Shape], prefix: str) -> Iterator[tuple[str, WeightSlice]]:
    """(module without the prefix, its weight) of all weights behind it."""
    for name in native:
        if name.startswith(prefix) and name.endswith(".weight"):
            yield module_of(name).removeprefix(prefix), WeightSlice(DENOISER + name)


# Models that diffusers spells in another way than the checkpoint: Mochi, AuraFlow, PixArt, CogVideoX. Their own names
# behind its prefixes would be a file that no loader reads.
_STRANGE = re.compile(
    r"blocks\.0\.(attn\.qkv_x|cross_attn\.kv_linear|norm1\.linear)\.|double_layers\.0\.|layers\.0\.attention\.qkv\."
)


def _own_keys(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Keys made of the checkpoint's own names: Qwen-Image, language models in PEFT layout, any other."""
    found: dict[str, WeightSlice] = {}
    strange = any(_STRANGE.match(name) for name in native) and not lumina.is_native(native)
    prefixes = ("",) if strange else ("", "transformer.", "base_model.model.")
    for name in native:
        weight_slice, module = WeightSlice(DENOISER + name), module_of(name)
        for prefix in prefixes:
            found[prefix + module] = weight_slice
        if name.endswith(".weight"):
            found["lycoris_" + module.replace(".", "_")] = weight_slice
    return found
