"""When names in two adapters can mean the same weight, block or model, where no base is at hand to say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .keys import BODY, is_text_encoder, parse_key


class BlockNames(NamedTuple):
    """family: of models that have blocks of this name, None where several do; scheme: "checkpoint" or "diffusers"."""

    family: str | None
    scheme: str


# Beginnings of flat names (see :func:`flat`) of a denoiser's blocks.
_BLOCKS = (
    (re.compile(r"(input_blocks|middle_block|output_blocks)_"), BlockNames("UNet", "checkpoint")),
    (re.compile(r"(down_blocks|mid_block|up_blocks)_"), BlockNames("UNet", "diffusers")),
    (re.compile(r"(double_blocks|single_blocks)_"), BlockNames("Flux", "checkpoint")),
    (re.compile(r"joint_blocks_"), BlockNames("SD3", "checkpoint")),
    (re.compile(r"(single_)?transformer_blocks_"), BlockNames(None, "diffusers")),
)
# Models whose every weight has the same name in another: SDXL serves SSD-1B and Vega, Flux dev schnell.
SERVED_BY = {"SSD-1B": "SDXL", "Segmind Vega": "SDXL", "KOALA 700M": "KOALA", "Flux schnell": "Flux"}
# Those of which only an adapter that leaves blocks out can be taken for one of the other.
_BUT_FOR_BLOCKS = {"KOALA": "SDXL", "SD3.5 medium": "SD3", "SD3.5 large": "SD3"}


def flat(key: str) -> str:
    """A module key without what tells one layout from another: prefix, and dots against underscores."""
    part, _, _, module = parse_key(key)
    if part in ("", BODY):
        return module.replace(".", "_")
    return (f"{part}_{module}" if is_text_encoder(key) else key).replace(".", "_")


def block_names(keys: Iterable[str]) -> set[BlockNames]:
    """The ways to name blocks that module keys of a denoiser use, as far as they tell."""
    names = [flat(key) for key in keys]
    return {meant for pattern, meant in _BLOCKS if any(pattern.match(name) for name in names)}


def one_family(models: Iterable[str]) -> tuple[str, ...]:
    """Models with those that cannot be told apart by a file that leaves blocks out under one name, each once."""
    served = (SERVED_BY.get(model, model) for model in models)
    return tuple(dict.fromkeys(_BUT_FOR_BLOCKS.get(model, model) for model in served))
