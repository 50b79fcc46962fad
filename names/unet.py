"""The UNet of Stable Diffusion 1, 2 and XL (and SSD-1B, Vega, KOALA): checkpoint names <-> diffusers names.

Which blocks exist is read from the keys, never assumed: relatives of SDXL differ only in that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .keys import NUMBER
from .weight_slice import Shape, StoredPart, WeightSlice

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}

# checkpoint module -> diffusers modules (the label embedding has two names over there)
_STEM = {
    "input_blocks.0.0": ("conv_in",),
    "out.0": ("conv_norm_out",),
    "out.2": ("conv_out",),
    "time_embed.0": ("time_embedding.linear_1",),
    "time_embed.2": ("time_embedding.linear_2",),
    "label_emb.0.0": ("add_embedding.linear_1", "class_embedding.linear_1"),
    "label_emb.0.2": ("add_embedding.linear_2", "class_embedding.linear_2"),
}


def is_native(names: Iterable[str]) -> bool:
    """Whether the names are a checkpoint's UNet (no prefix)."""
    return any(name.startswith("input_blocks.1.0.") for name in names)


def is_diffusers(names: Iterable[str]) -> bool:
    """Whether the names are those of diffusers' UNet2DConditionModel."""
    return any(name.startswith(("down_blocks.0.resnets.0.", "mid_block.resnets.0.")) for name in names)


def aliases(native: Mapping[str, Shape]) -> dict[str, WeightSlice]:
    """Diffusers tensor name -> WeightSlice for every tensor of a checkpoint's UNet (names without prefix)."""
    pairs = _native_pairs(native)
    found: dict[str, WeightSlice] = {}
    for name in native:
        module, _, end = name.rpartition(".")
        if module in _STEM:
            found.update({f"{other}.{end}": WeightSlice(name) for other in _STEM[module]})
            continue
        prefix, rest = _split(module, pairs)
        if prefix is not None:
            found[f"{pairs[prefix]}{_inner(rest, _RESNET)}.{end}"] = WeightSlice(name)
    return found


def parts(diffusers: Mapping[str, Shape]) -> dict[str, list[StoredPart]]:
    """Checkpoint tensor name -> where it is among diffusers' tensors."""
    pairs = {there: here for here, there in _diffusers_pairs(diffusers).items()}
    stem = {other: module for module, others in _STEM.items() for other in others}
    back = {there: here for here, there in _RESNET.items()}
    found: dict[str, list[StoredPart]] = {}
    for name in diffusers:
        module, _, end = name.rpartition(".")
        if module in stem:
            found[f"{stem[module]}.{end}"] = [StoredPart(name)]
            continue
        prefix, rest = _split(module, pairs)
        if prefix is not None:
            found[f"{pairs[prefix]}{_inner(rest, back)}.{end}"] = [StoredPart(name)]
    return found


def _inner(rest: str, table: Mapping[str, str]) -> str:
    return "." + table.get(rest[1:], rest[1:]) if rest else ""


def _split(module: str, pairs: Mapping[str, str]) -> tuple[str | None, str]:
    """The longest known prefix of a module name and what follows it."""
    end = len(module)
    while end > 0:
        if module[:end] in pairs:
            return module[:end], module[end:]
        end = module.rfind(".", 0, end)
    return None, module


def _count(names: Iterable[str], pattern: str) -> int:
    found = [int(match.group(1)) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _native_pairs(names: Mapping[str, Shape]) -> dict[str, str]:
    """Checkpoint sub-block -> diffusers sub-block, walking the checkpoint's lists in order."""
    heads = {".".join(name.split(".")[:4]) for name in names} | {".".join(name.split(".")[:3]) for name in names}

    def has(prefix: str) -> bool:
        return prefix in heads

    pairs: dict[str, str] = {}
    level = index = 0
    for n in range(1, _count(names, rf"input_blocks\.({NUMBER})\.")):
        if has(f"input_blocks.{n}.0.op"):
            pairs[f"input_blocks.{n}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            level, index = level + 1, 0
            continue
        pairs[f"input_blocks.{n}.0"] = f"down_blocks.{level}.resnets.{index}"
        pairs[f"input_blocks.{n}.1"] = f"down_blocks.{level}.attentions.{index}"
        index += 1
    pairs["middle_block.0"] = "mid_block.resnets.0"
    pairs["middle_block.1"] = "mid_block.attentions.0"
    pairs["middle_block.2"] = "mid_block.resnets.1"
    level = index = 0
    for n in range(_count(names, rf"output_blocks\.({NUMBER})\.")):
        pairs[f"output_blocks.{n}.0"] = f"up_blocks.{level}.resnets.{index}"
        sampler = next((c for c in (1, 2) if has(f"output_blocks.{n}.{c}.conv")), None)
        if sampler != 1:
            pairs[f"output_blocks.{n}.1"] = f"up_blocks.{level}.attentions.{index}"
        index += 1
        if sampler:
            pairs[f"output_blocks.{n}.{sampler}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
            level, index = level + 1, 0
    return pairs


def _diffusers_pairs(names: Mapping[str, Shape]) -> dict[str, str]:
    """The same dictionary, read off diffusers' names."""
    heads = {".".join(name.split(".")[:4]) for name in names}
    pairs: dict[str, str] = {}
    n = 1
    for level in range(_count(names, rf"down_blocks\.({NUMBER})\.")):
        for index in range(_count(names, rf"down_blocks\.{level}\.resnets\.({NUMBER})\.")):
            pairs[f"input_blocks.{n}.0"] = f"down_blocks.{level}.resnets.{index}"
            pairs[f"input_blocks.{n}.1"] = f"down_blocks.{level}.attentions.{index}"
            n += 1
        if f"down_blocks.{level}.downsamplers.0" in heads:
            pairs[f"input_blocks.{n}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            n += 1
    pairs["middle_block.0"] = "mid_block.resnets.0"
    pairs["middle_block.1"] = "mid_block.attentions.0"
    pairs["middle_block.2"] = "mid_block.resnets.1"
    n = 0
    for level in range(_count(names, rf"up_blocks\.({NUMBER})\.")):
        for index in range(_count(names, rf"up_blocks\.{level}\.resnets\.({NUMBER})\.")):
            pairs[f"output_blocks.{n}.0"] = f"up_blocks.{level}.resnets.{index}"
            pairs[f"output_blocks.{n}.1"] = f"up_blocks.{level}.attentions.{index}"
            n += 1
        if f"up_blocks.{level}.upsamplers.0" in heads:
            number = 2 if f"up_blocks.{level}.attentions.0" in heads else 1
            if number == 1:
                del pairs[f"output_blocks.{n - 1}.1"]
            pairs[f"output_blocks.{n - 1}.{number}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return pairs
