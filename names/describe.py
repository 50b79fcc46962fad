"""Which block a weight belongs to and what it does there: the axes of matching and of heat maps."""

from __future__ import annotations

import re

from .keys import NUMBER
from .weight_slice import DENOISER, module_of

_UNET = re.compile(
    rf"((?:input_blocks|output_blocks)\.{NUMBER}\.{NUMBER}|middle_block\.{NUMBER})(\.transformer_blocks\.{NUMBER})?\.(.+)$"
)
_LIST = re.compile(rf"((?:[^.]+\.)*?(?:[a-z_]*blocks|layers|[a-z_]*_layers|[a-z_]*refiner|block|h)\.{NUMBER})\.(.+)$")
_TEXT = re.compile(
    rf"([^.]+)\.(?:transformer\.)?(?:text_model\.)?(?:model\.)?(?:encoder\.)?(layers|block)\.({NUMBER})\.(.+)$"
)
OUTSIDE = "outside blocks"


def describe(name: str) -> tuple[str, str]:
    """(block, role) of a canonical weight name; two weights of one role do the same work in different blocks.

    ``diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight`` is
    ("input_blocks.4.1.transformer_blocks.0", "attn1.to_q"). Text encoder blocks carry the encoder's name
    ("clip_l.layers.3").
    """
    module = module_of(name)
    if not module.startswith(DENOISER):
        match = _TEXT.match(module)
        if match:
            return f"{match.group(1)}.{match.group(2)}.{match.group(3)}", match.group(4)
        encoder, _, rest = module.partition(".")
        return encoder, rest.removeprefix("transformer.").removeprefix("text_model.")
    module = module[len(DENOISER) :]
    if re.match(r"input_blocks\.0\.", module):  # the input convolution
        return OUTSIDE, module
    match = _UNET.match(module)
    if match:
        return match.group(1) + (match.group(2) or ""), match.group(3)
    match = _LIST.match(module)  # the first <list>.<number>: later numbers are places inside the block
    return (match.group(1), match.group(2)) if match else (OUTSIDE, module)


def natural(name: str) -> tuple:
    """Sort key that puts block 2 before block 10."""
    parts = re.split(r"([0-9]{1,9})", name)
    return tuple((1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts))
