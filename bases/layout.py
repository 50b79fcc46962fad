"""Which canonical weights a file (or a folder's component) holds, and where in it."""

from __future__ import annotations

from collections.abc import Mapping

from ..names import flux, lumina, mmdit, text, unet
from ..names.encoders import encoder_names
from ..names.weight_slice import DENOISER, Shape, StoredPart

_IGNORED = ("first_stage_model.", "vae.", "model_ema.", "embedder.", "noise_augmentor.", "clip_vision.")
_MARKERS = (".scale_weight", ".weight_scale", ".weight_scale_2", ".scale_input", ".input_scale", ".comfy_quant")
_DIFFUSERS = (unet, mmdit, flux, lumina)


def canonical_parts(raw: Mapping[str, Shape]) -> dict[str, list[StoredPart]]:
    """Canonical weight name -> the stored tensors' rows that stack up to it.

    Understood: a full checkpoint (``model.diffusion_model.`` with its text encoders), a denoiser alone (bare
    names or behind ``diffusion_model.``), a diffusers component, a CLIP, T5 or language model's file. In any other
    file every tensor counts as the denoiser's: its canonical name is ``diffusion_model.`` before its own.

    Args:
        raw: stored tensor name -> shape.
    """
    raw = {name: shape for name, shape in raw.items() if not name.endswith(_MARKERS) and shape}
    wrapper = next((p for p in ("model.diffusion_model.", DENOISER) if any(n.startswith(p) for n in raw)), None)
    if wrapper is not None:
        found = {DENOISER + name[len(wrapper) :]: [StoredPart(name)] for name in raw if name.startswith(wrapper)}
        found = {_modern(name): parts for name, parts in found.items()}
        return found | _text_encoders(raw)
    for family in _DIFFUSERS:
        if family.is_diffusers(raw):
            return {DENOISER + name: parts for name, parts in family.parts(raw).items()}
    encoders = _text_encoders(raw)
    if encoders:
        return encoders
    if text.is_clip(raw):
        return text.clip_parts(raw, "", text.clip_kind(raw))
    if language := encoder_names(raw):
        return {name: [StoredPart(key)] for name, key in language.items()}
    return {_modern(DENOISER + name): [StoredPart(name)] for name in raw if not name.startswith(_IGNORED)}


def _modern(name: str) -> str:
    """Flux calls the gain of a query or key norm "scale"; the host, like everyone else, "weight"."""
    return name.removesuffix("scale") + "weight" if name.endswith(("query_norm.scale", "key_norm.scale")) else name


def _text_encoders(raw: Mapping[str, Shape]) -> dict[str, list[StoredPart]]:
    """The text encoders inside a full checkpoint."""
    found: dict[str, list[StoredPart]] = {}
    for name in raw:  # SD3, Flux and everything the host saves: already canonical behind one prefix
        if name.startswith("text_encoders."):
            found[name[len("text_encoders.") :]] = [StoredPart(name)]
    found |= text.clip_parts(raw, "cond_stage_model.transformer.", "clip_l")
    found |= text.clip_parts(raw, "conditioner.embedders.0.transformer.", "clip_l")
    for prefix in ("cond_stage_model.model.", "conditioner.embedders.0.model.", "conditioner.embedders.1.model."):
        tower = {name: shape for name, shape in raw.items() if name.startswith(prefix)}
        if tower:
            found |= text.open_clip_parts(tower, prefix, text.clip_kind(tower))
    return found
