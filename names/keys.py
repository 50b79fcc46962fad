"""What the front of an adapter's module key says: which model it changes, in whose style, and the name behind it."""

from __future__ import annotations

import re
from typing import NamedTuple

DENOISER = "diffusion_model."  # canonical names and ComfyUI's keys of the denoiser's weights begin with it
BODY = "denoiser"


class Key(NamedTuple):
    """A module key taken apart.

    part: "denoiser", "denoiser 2" (the second expert of a pair), "prior"; "te1", "te2", … for text encoders by number,
        or "te" and a name; "" when the key does not tell.
    style: whose spelling it is; see :func:`.weight_slice.style_of`. layout: the file layout it belongs to, or "bare".
    module: the name behind the prefix.
    """

    part: str
    style: str
    layout: str
    module: str


# Prefix (a pattern; its group numbers the text encoder), part, style, layout. First match wins.
_PREFIXES = tuple(
    (re.compile(pattern), part, style, layout)
    for pattern, part, style, layout in (
        (r"lora_unet_", BODY, "kohya", "kohya"),
        (r"lora_te_", "te1", "te-kohya", "kohya"),
        (r"lora_te(\d)_", "te", "te-kohya-numbered", "kohya"),
        (r"lora_prior_te_", "te1", "bare", "kohya"),
        (r"lora_prior_", "prior", "bare", "kohya"),
        (r"lora_transformer_", BODY, "onetrainer", "kohya"),
        (r"lycoris_", BODY, "lycoris", "kohya"),
        (r"unet\.base_model\.model\.", BODY, "peft-unet", "peft"),
        (r"base_model\.model\.", "", "peft", "peft"),
        (r"(?:unet|transformer)\.", BODY, "diffusers", "diffusers"),
        (r"transformer_2\.", "denoiser 2", "bare", "diffusers"),
        (r"text_encoder\.", "te1", "diffusers", "diffusers"),
        (r"text_encoder_(\d)\.", "te", "diffusers", "diffusers"),
        (r"diffusion_model\.", BODY, "comfy", "comfy"),
        (r"text_encoders\.(\w+?)\.(?:transformer\.)?", "te", "comfy", "comfy"),
        (r"unet:", BODY, "bare", "cloneofsimo"),
        (r"text_encoder:", "te1", "bare", "cloneofsimo"),
    )
)
_ENCODERS = {"clip_l": "1", "clip_h": "1", "clip_g": "2", "t5xxl": "3"}  # numbers that trainers give them


def parse_key(key: str) -> Key:
    """A module key (no ``.lora_up.weight`` or other suffix) taken apart; a key without a known prefix is "bare"."""
    for prefix, part, style, layout in _PREFIXES:
        found = prefix.match(key)
        if found:
            if prefix.groups:
                part += _ENCODERS.get(found[1], found[1])
            return Key(part, style, layout, key[found.end() :])
    return Key("", "bare", "bare", key)


def is_text_encoder(key: str) -> bool:
    """Whether the key's prefix says that it changes a text encoder; bare keys do not."""
    return parse_key(key).part.startswith("te")
