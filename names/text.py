"""Text encoders: OpenCLIP and transformers names <-> the canonical ones, and the adapter keys for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .encoders import aliases as language_keys
from .keys import DENOISER, ENCODERS
from .weight_slice import Shape, StoredPart, WeightSlice, module_of

_CLIP_WIDTHS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}

_RESBLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}

_OPEN_CLIP_STEM = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection.weight": "text_projection.weight",
}

_CLIP_ROOTS = ("encoder.layers.", "embeddings.", "final_layer_norm.")
_TRAINED = re.compile(r"text_model\.encoder\.layers\.\d+\.(mlp\.fc[12]|self_attn\.(q|k|v|out)_proj)$")


def is_clip(names: Iterable[str]) -> bool:
    """Whether the names are a CLIP text encoder as transformers stores it."""
    return any(name.removeprefix("text_model.").startswith("encoder.layers.0.self_attn.") for name in names)


def clip_kind(names: Mapping[str, Shape]) -> str:
    """clip_l, clip_h or clip_g, by the width (768, 1024, 1280)."""
    for name, shape in names.items():
        if name.endswith(("final_layer_norm.weight", "ln_final.weight", ".layer_norm1.weight", ".ln_1.weight")):
            return _CLIP_WIDTHS.get(shape[0], "clip_l")
    return "clip_l"


def clip_parts(raw: Mapping[str, Shape], prefix: str, encoder: str) -> dict[str, list[StoredPart]]:
    """Canonical name -> part, for a CLIP stored with transformers' names behind ``prefix``."""
    found = {}
    for name in raw:
        if not name.startswith(prefix):
            continue
        rest = name[len(prefix) :]
        if rest.startswith(_CLIP_ROOTS):
            rest = "text_model." + rest
        if rest.startswith(("text_model.", "text_projection.")) and not rest.endswith("position_ids"):
            found[f"{encoder}.transformer.{rest}"] = [StoredPart(name)]
    return found


def open_clip_parts(raw: Mapping[str, Shape], prefix: str, encoder: str) -> dict[str, list[StoredPart]]:
    """Canonical name -> part, for an OpenCLIP text tower behind ``prefix``; its fused in_proj becomes q, k, v."""
    found: dict[str, list[StoredPart]] = {}
    for name, shape in raw.items():
        if not name.startswith(prefix):
            continue
        rest, root = name[len(prefix) :], f"{encoder}.transformer."
        if rest in _OPEN_CLIP_STEM:
            found[root + _OPEN_CLIP_STEM[rest]] = [StoredPart(name)]
        elif rest == "text_projection":
            found[root + "text_projection.weight"] = [StoredPart(name, transpose=True)]
        elif match := re.match(r"transformer\.resblocks\.(\d+)\.(.+)$", rest):
            layer, inner = f"{root}text_model.encoder.layers.{match.group(1)}.", match.group(2)
            if inner.startswith("attn.in_proj_"):
                end, third = inner.removeprefix("attn.in_proj_"), shape[0] // 3
                for i, letter in enumerate("qkv"):
                    found[f"{layer}self_attn.{letter}_proj.{end}"] = [StoredPart(name, (i * third, third))]
            else:
                module, _, end = inner.rpartition(".")
                if module in _RESBLOCK:
                    found[f"{layer}{_RESBLOCK[module]}.{end}"] = [StoredPart(name)]
    return found


def aliases(weights: Mapping[str, Shape], *, numbered: bool) -> dict[str, WeightSlice]:
    """Adapter module key -> WeightSlice for every text encoder weight.

    Args:
        weights: canonical names -> shapes; the denoiser's are ignored.
        numbered: whether ``lora_te1_`` comes before ``lora_te_`` (bases with more than one encoder).
    """
    weights = {name: shape for name, shape in weights.items() if not name.startswith(DENOISER)}
    encoders = {name.split(".")[0] for name in weights}
    found: dict[str, WeightSlice] = {}
    for name in weights:
        if not name.endswith(".weight"):
            continue
        module, weight_slice = module_of(name), WeightSlice(name)
        encoder, _, rest = module.partition(".transformer.")
        found[f"text_encoders.{module}"] = weight_slice
        if rest and encoder not in _CLIP_WIDTHS.values():
            found[f"text_encoders.transformer.{rest}"] = weight_slice
        flat = rest.replace(".", "_")
        if encoder in _CLIP_WIDTHS.values():
            second = encoder == "clip_g" and "clip_l" in encoders
            if _TRAINED.match(rest):
                found.update(dict.fromkeys(_clip_keys(flat, rest, encoder, second, numbered), weight_slice))
            elif rest == "text_projection":
                found[f"lora_te{ENCODERS[encoder]}_text_projection"] = weight_slice
                if encoder == "clip_g":
                    found["lora_prior_te_text_projection"] = weight_slice
            else:
                found[f"text_encoder{'_2' if second else ''}.{rest}"] = weight_slice
        else:
            if encoder == "t5xxl":
                found.update(dict.fromkeys(_t5_keys(flat, rest, encoders), weight_slice))
            for key in language_keys(rest, alone=len(encoders) == 1) if rest else ():
                found.setdefault(key, weight_slice)
    return found


def _clip_keys(flat: str, rest: str, encoder: str, second: bool, numbered: bool) -> list[str]:
    if second:
        return [f"lora_te2_{flat}", f"text_encoder_2.{rest}"]
    first = [f"lora_te_{flat}"] if encoder == "clip_g" else [f"lora_te_{flat}", f"lora_te1_{flat}"]
    if numbered:
        first.reverse()
    prior = [f"lora_prior_te_{flat}"] if encoder == "clip_g" else []
    return [*first, f"text_encoder.{rest}", *prior, f"base_model.model.{rest}"]


def _t5_keys(flat: str, rest: str, encoders: set[str]) -> list[str]:
    before = len(encoders & {"clip_l", "clip_g"})
    if before == 1 and "clip_l" in encoders:  # Flux: OneTrainer counts it second, others third as in SD3
        return [f"lora_te2_{flat}", f"lora_te3_{flat}", f"text_encoder_2.{rest}"]
    return [f"lora_te{before + 1}_{flat}", f"text_encoder{f'_{before + 1}' if before else ''}.{rest}"]
