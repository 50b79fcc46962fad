"""Names of an architecture without a checkpoint at hand: enough to tell which adapter keys mean one weight.

Only names are made up here, from the published structure of the common families; no weight and no value. Where a
family is not known, or its width cannot be told, there is no skeleton and a base has to be given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod

from .guess import guess_adapter_architecture
from .names import DENOISER, Names, flux, mmdit, names_for

Shape = tuple[int, ...]

# family -> (levels, transformer blocks per level of the UNet's way down, text width, 1x1 projections are convolutions)
_UNETS = {
    "SD 1.5": ((1, 1, 1, 0), 768),
    "SD 2.x": ((1, 1, 1, 0), 1024),
    "SDXL": ((0, 2, 10), 2048),
    "SSD-1B": ((0, 2, 10), 2048),  # blocks keep their places where some are left out
    "Segmind Vega": ((0, 2, 10), 2048),
}
_ENCODERS = {
    "SD 1.5": ("clip_l",),
    "SD 2.x": ("clip_h",),
    "SDXL": ("clip_l", "clip_g"),
    "SSD-1B": ("clip_l", "clip_g"),
    "Segmind Vega": ("clip_l", "clip_g"),
    "SD3": ("clip_l", "clip_g", "t5xxl"),
    "SD3.5 medium": ("clip_l", "clip_g", "t5xxl"),
    "SD3.5 large": ("clip_l", "clip_g", "t5xxl"),
    "Flux": ("clip_l", "t5xxl"),
}
_LAYERS = {"clip_l": 12, "clip_h": 24, "clip_g": 32, "t5xxl": 24}
_SD3_DEPTH = {1536: 24, 2432: 38}
_ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
              "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
              "norm1", "norm2", "norm3")  # fmt: skip
_RESNET = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")


def names_of_adapters(modules: Mapping[str, Shape | None]) -> tuple[Names, str] | None:
    """(names, family) for adapters with these module keys and (out, in, …) shapes; None where they cannot be told.

    Keys of several adapters may be given together when they are for one family.
    """
    family = guess_adapter_architecture(modules)
    weights = skeleton(family, modules)
    return (names_for(weights), family) if weights else None


def skeleton(family: str, modules: Mapping[str, Shape | None]) -> dict[str, Shape]:
    """Canonical weight name -> shape as far as names depend on it; empty for an unknown family.

    modules: adapter keys and shapes, which tell depths and widths of the families that come in several sizes.
    """
    if family in _UNETS:
        found = _unet(*_UNETS[family])
    elif family == "Flux":
        found = _flux(modules)
    elif family.startswith("SD3"):
        found = _sd3(modules, family)
    else:
        return {}
    encoders = _text(_ENCODERS[family]) if found else {}
    return {DENOISER + name: shape for name, shape in found.items()} | encoders


def _unet(levels: tuple[int, ...], context: int) -> dict[str, Shape]:
    """The UNet of Stable Diffusion: two residual blocks a level on the way down, three on the way up."""
    names = {"time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"}
    if context == 2048:
        names |= {"label_emb.0.0", "label_emb.0.2"}

    def add(block: str, depth: int) -> None:
        names.update(f"{block}.0.{part}" for part in _RESNET)
        if depth:
            names.update(f"{block}.1.{part}" for part in ("norm", "proj_in", "proj_out"))
            names.update(f"{block}.1.transformer_blocks.{i}.{part}" for i in range(depth) for part in _ATTENTION)

    n = 1
    for level, depth in enumerate(levels):
        for _ in range(2):
            add(f"input_blocks.{n}", depth)
            n += 1
        if level + 1 < len(levels):
            names.add(f"input_blocks.{n}.0.op")
            n += 1
    add("middle_block", max(levels[-1], 1))
    names.update(f"middle_block.2.{part}" for part in _RESNET)
    n = 0
    for level, depth in reversed(list(enumerate(levels))):
        for i in range(3):
            add(f"output_blocks.{n}", depth)
            if level and i == 2:
                names.add(f"output_blocks.{n}.{2 if depth else 1}.conv")
            n += 1
    ordered = sorted(names)
    return {f"{name}.weight": (1, context if name.endswith("attn2.to_k") else 1) for name in ordered}


def _flux(modules: Mapping[str, Shape | None]) -> dict[str, Shape]:
    width = _width(modules, r"(single_blocks_\d+_linear1|img_attn_qkv|txt_attn_qkv|_attn_to_[qkv]|add_[qkv]_proj)$")
    if not width:
        return {}
    depths = {"double_blocks": 19, "single_blocks": 38}
    return _from_table(flux.TABLE, depths, lambda name: (7 if name.endswith("linear1") else 3) * width, width)


def _sd3(modules: Mapping[str, Shape | None], family: str) -> dict[str, Shape]:
    width = _width(modules, r"(_attn2?_qkv|_attn2?_to_[qkv]|add_[qkv]_proj)$")
    if not width:
        return {}
    seen = [int(m.group(1)) for key in _flat(modules) if (m := re.search(r"(?:joint|transformer)_blocks_(\d+)_", key))]
    depth = _SD3_DEPTH.get(width, max(seen, default=-1) + 1)
    found = _from_table(mmdit.TABLE, {"joint_blocks": depth}, lambda name: 3 * width, width)
    return {n: s for n, s in found.items() if family == "SD3.5 medium" or ".attn2." not in n}


def _from_table(table, depths: Mapping[str, int], fused_rows, width: int) -> dict[str, Shape]:
    """The checkpoint's names in a table of diffusers names; fused weights get their height."""
    found = {row.ours: row for row in table.stem}
    for blocks, (_, rows) in table.lists.items():
        found |= {f"{blocks}.{i}.{row.ours}": row for i in range(depths[blocks]) for row in rows}
    sliced = {name: row.part is not None or name.endswith("linear1") for name, row in found.items()}
    return {f"{name}.weight": (fused_rows(name) if sliced[name] else 1, width) for name in found}


def _text(encoders: tuple[str, ...]) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for encoder in encoders:
        for layer in range(_LAYERS[encoder]):
            if encoder == "t5xxl":
                at = f"t5xxl.transformer.encoder.block.{layer}.layer"
                parts = [f"{at}.0.SelfAttention.{p}" for p in "qkvo"]
                parts += [f"{at}.1.DenseReluDense.{p}" for p in ("wi_0", "wi_1", "wo")]
            else:
                at = f"{encoder}.transformer.text_model.encoder.layers.{layer}"
                parts = [f"{at}.self_attn.{p}_proj" for p in ("q", "k", "v", "out")]
                parts += [f"{at}.mlp.fc1", f"{at}.mlp.fc2"]
            found |= {f"{part}.weight": (1, 1) for part in parts}
    return found


def _width(modules: Mapping[str, Shape | None], pattern: str) -> int | None:
    """Width of the residual stream: the number of columns of a projection that reads it."""
    for key, shape in _flat(modules).items():
        if shape and len(shape) > 1 and re.search(pattern, key):
            return prod(shape[1:])
    return None


def _flat(modules: Mapping[str, Shape | None]) -> dict[str, Shape | None]:
    return {key.replace(".", "_"): shape for key, shape in modules.items()}
