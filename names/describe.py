"""Which block a weight belongs to and what it does there: the axes of matching and of heat maps."""

from __future__ import annotations

import re

from .weight_slice import DENOISER, module_of

_UNET = re.compile(r"((?:input_blocks|output_blocks)\.\d+\.\d+|middle_block\.\d+)(\.transformer_blocks\.\d+)?\.(.+)$")
_LIST = re.compile(r"((?:[^.]+\.)*?(?:[a-z_]*blocks|layers|[a-z_]*_layers|[a-z_]*refiner|block|h)\.\d+)\.(.+)$")
_TEXT = re.compile(
    r"([^.]+)\.(?:transformer\.)?(?:text_model\.)?(?:model\.)?(?:encoder\.)?(layers|block)\.(\d+)\.(.+)$"
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
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name))
