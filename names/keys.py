"""What the front of an adapter's module key says: which model it changes, in whose style, and the name behind it."""

from __future__ import annotations

import re
from typing import NamedTuple

DENOISER = "diffusion_model."  # canonical names and ComfyUI's keys of the denoiser's weights begin with it
BODY = "denoiser"
NUMBER = "[0-9]{1,3}"  # of a block, as a pattern; what is longer, or in other digits, is not a number here


class Key(NamedTuple):
    """A module key taken apart.

    part: "denoiser", "denoiser 2" (the second expert of a pair), "prior"; "te1", "te2", … for text encoders by number,
        or "te" and a name; "" when the key does not tell. Behind no prefix, or PEFT's, an encoder's own names do.
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
ENCODERS = {"clip_l": "1", "clip_h": "1", "clip_g": "2", "t5xxl": "3"}  # numbers that trainers give them
# Canonical names of text encoders, then what only they are called.
_OWN = re.compile(r"(clip_[lgh]|t5xxl)\.|text_model\.|te\.")


def parse_key(key: str) -> Key:
    """A module key (no ``.lora_up.weight`` or other suffix) taken apart; a key without a known prefix is "bare"."""
    for prefix, part, style, layout in _PREFIXES:
        found = prefix.match(key)
        if found:
            if prefix.groups:
                part += ENCODERS.get(found[1], found[1])
            module = key[found.end() :]
            return Key(part or _encoder(module), style, layout, module)
    return Key(_encoder(key), "bare", "bare", key)


def _encoder(module: str) -> str:
    """The text encoder that a module's own name tells of, or ""."""
    found = _OWN.match(module)
    return f"te{ENCODERS.get(found[1] or '', '1')}" if found else ""


def is_text_encoder(key: str) -> bool:
    """Whether the key says that it changes a text encoder."""
    return parse_key(key).part.startswith("te")
