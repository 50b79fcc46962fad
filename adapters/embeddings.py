"""Textual-inversion vectors that travel inside adapter files; kept among the extras, named here."""

from __future__ import annotations

import re

from torch import Tensor

_BUNDLE = re.compile(r"bundle_emb\.(?P<name>.+?)\.(?P<part>string_to_param\.\*|emb_params|clip_[lgh]|t5xxl|\*)$")
_PARTS = (
    "emb_params",
    "clip_l",
    "clip_g",
    "clip_h",
    "t5xxl",
    "string_to_param.*",
    "text_encoders_0",
    "text_encoders_1",
)


def embeddings(extras: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, dict[str, Tensor]]:
    """Embedded vectors: name -> {part: (tokens, width)}.

    Known forms: ``bundle_emb.<name>.<part>`` (OneTrainer; ComfyUI reads them too), bare ``emb_params``, ``clip_l``,
    ``clip_g`` ... (name ""), and cloneofsimo's ``<token>`` keys whose metadata entry is ``<embed>``.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in extras.items():
        bundled = _BUNDLE.match(key)
        if bundled:
            found.setdefault(bundled["name"], {})[bundled["part"]] = tensor
        elif key in _PARTS:
            found.setdefault("", {})[key] = tensor
        elif metadata.get(key) == "<embed>":
            found.setdefault(key, {})["clip_l"] = tensor
    return found
