"""cloneofsimo/lora files for SD 1.x and 2.x: factors numbered in the order in which the program met the layers.

Keys are ``unet:<i>:up``, ``unet:<i>:down`` (and ``text_encoder:<i>:…``); the metadata lists the classes that were
searched. Position i is turned into the layer's diffusers name by walking the UNet in the program's order: inside
each part the attentions come before the resnets, the middle block comes last (diffusers registers it after the up
blocks), and inside a transformer block diffusers up to 0.12 put the feed-forward before the second attention, later
ones after it; the shapes tell which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from ..errors import AdapterError

_KEY = re.compile(r"(?P<part>unet|text_encoder):(?P<index>[0-9]{1,6}):(?P<half>up|down)$")
_WHERE = [
    *((f"down_blocks.{i}", 2, i < 3, i > 0) for i in range(4)),
    *((f"up_blocks.{i}", 3, i > 0, True) for i in range(4)),
    ("mid_block", 1, True, False),
]


def translate(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str | None]] | None:
    """Tensors under ``unet.<diffusers name>.lora_up.weight`` keys and the way back; None for other files.

    Raises:
        AdapterError: the number or the shapes of the layers fit no known walk.
    """
    parts = {hit["part"] for key in tensors if (hit := _KEY.match(key))}
    if not parts:
        return None
    names = {part: _names(part, _shapes(tensors, part)) for part in parts}
    out: dict[str, Tensor] = {}
    aliases: dict[str, str | None] = {}
    for key, tensor in tensors.items():
        hit = _KEY.match(key)
        ours = key if not hit else f"{names[hit['part']][int(hit['index'])]}.lora_{hit['half']}.weight"
        out[ours] = tensor
        if hit:
            aliases[ours] = key
    return out, aliases


def _shapes(tensors: dict[str, Tensor], part: str) -> list[tuple[int, int]]:
    """(out, in) channels of each numbered layer."""
    indices = sorted({int(hit["index"]) for key in tensors if (hit := _KEY.match(key)) and hit["part"] == part})
    if indices != list(range(len(indices))):
        raise AdapterError(
            "The numbered layers have gaps",
            key=f"{part}:{indices[-1] if indices else 0}",
            hint="The file is incomplete; save or download it again.",
        )
    shapes = []
    for i in indices:
        for half in ("up", "down"):
            if f"{part}:{i}:{half}" not in tensors:
                raise AdapterError("Half of a pair is missing", key=f"{part}:{i}:{half}")
            if tensors[f"{part}:{i}:{half}"].ndim < 2:
                raise AdapterError("A numbered layer's factor is no matrix", key=f"{part}:{i}:{half}")
        shapes.append((tensors[f"{part}:{i}:up"].shape[0], tensors[f"{part}:{i}:down"].shape[1]))
    return shapes


def _names(part: str, shapes: list[tuple[int, int]]) -> list[str]:
    """Module keys in the program's order."""
    if part == "text_encoder":
        walk = [
            f"text_encoder.text_model.encoder.layers.{i}.self_attn.{name}"
            for i in range(len(shapes) // 4)
            for name in ("k_proj", "v_proj", "q_proj", "out_proj")
        ]
        walks = [walk]
    else:
        orders = [(resnets, late) for resnets in (False, True) for late in (False, True)]
        walks = [[f"unet.{name}" for name in _walk(resnets, late)] for resnets, late in orders]
    for walk in walks:
        if len(walk) == len(shapes) and all(_plausible(name, shape) for name, shape in zip(walk, shapes, strict=True)):
            return walk
    raise AdapterError(
        f"{len(shapes)} numbered {part} layers fit no known way of walking Stable Diffusion 1 or 2",
        key=f"{part}:0",
        hint="Convert the file with the program that made it.",
    )


def _walk(resnets: bool, late: bool) -> Iterator[str]:
    """Layer names of an SD 1.x/2.x UNet; ``late``: the feed-forward comes after the second attention."""
    for block, count, attentive, _ in _WHERE:
        for i in range(count) if attentive else ():
            layer_block = f"{block}.attentions.{i}.transformer_blocks.0"
            for name in ("attn1", "attn2", "ff") if late else ("attn1", "ff", "attn2"):
                if name == "ff":
                    yield f"{layer_block}.ff.net.0.proj"
                else:
                    yield from (f"{layer_block}.{name}.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0"))
        if resnets:
            for i in range(2 if block == "mid_block" else count):
                yield from (f"{block}.resnets.{i}.{layer}" for layer in ("conv1", "time_emb_proj", "conv2"))
                if _has_shortcut(block, i):
                    yield f"{block}.resnets.{i}.conv_shortcut"


def _has_shortcut(block: str, i: int) -> bool:
    """Whether the resnet changes its number of channels."""
    return block.startswith("up_blocks") or (block in ("down_blocks.1", "down_blocks.2") and i == 0)


def _plausible(name: str, shape: tuple[int, int]) -> bool:
    """Whether a layer of this name may have these channels; tells the two orders of a block apart."""
    out, inputs = shape
    if name.endswith("ff.net.0.proj"):
        return out == 8 * inputs
    if ".attn1." in name or name.endswith((".attn2.to_q", ".attn2.to_out.0")):
        return out == inputs
    if ".attn2." in name:
        return inputs in (768, 1024) and out in (320, 640, 1280)
    return True
