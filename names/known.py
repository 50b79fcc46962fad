"""Models whose weights are known by name and shape without a file: synthesised from their published sizes.

Names are canonical (see weight_slice.py), text encoders included, so that adapters can change layout when no
base is at hand.
The sizes are those of the papers and model cards: Stable Diffusion (arXiv 2112.10752), SDXL and its refiner
(2307.01952), SSD-1B and Vega (2401.02677), KOALA (2312.04005), SD3 and 3.5 (2403.03206), Flux.1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from .build import names_for
from .weight_slice import DENOISER, Names, Shape

Weights = dict[str, Shape]


class _UNet(NamedTuple):
    """widths: channels per level; down, up: depth of the transformer after each residual block, in the order of
    input_blocks and output_blocks (0: none); middle: None for no middle block, 0 for a residual block alone."""

    widths: tuple[int, ...]
    down: tuple[int, ...]
    middle: int | None
    up: tuple[int, ...]
    context: int
    label: int = 0
    linear: bool = True


_FOUR, _XL = (320, 640, 1280, 1280), (320, 640, 1280)
_SD = {"down": (1,) * 6 + (0, 0), "middle": 1, "up": (0,) * 3 + (1,) * 9}

_UNETS = {
    "SD 1.5": _UNet(_FOUR, **_SD, context=768, linear=False),
    "SD 2.x": _UNet(_FOUR, **_SD, context=1024),
    "SDXL": _UNet(_XL, (0, 0, 2, 2, 10, 10), 10, (10,) * 3 + (2,) * 3 + (0,) * 3, 2048, 2816),
    "SSD-1B": _UNet(_XL, (0, 0, 2, 2, 4, 4), 0, (4, 4, 10, 2, 1, 1, 0, 0, 0), 2048, 2816),
    "Segmind Vega": _UNet(_XL, (0, 0, 1, 1, 2, 2), 0, (2,) * 3 + (1,) * 3 + (0,) * 3, 2048, 2816),
    "KOALA": _UNet(_XL, (0, 2, 6), 6, (6, 6, 2, 2, 0, 0), 2048, 2816),  # the 1B model, which names all of 700M's
    "KOALA 700M": _UNet(_XL, (0, 2, 5), None, (5, 5, 2, 2, 0, 0), 2048, 2816),
    "SDXL refiner": _UNet(
        (384, 768, 1536, 1536), (0, 0, 4, 4, 4, 4, 0, 0), 4, (0,) * 3 + (4,) * 6 + (0,) * 3, 1280, 2560
    ),
}


def _layer(name: str, *shape: int, bias: bool = True) -> Weights:
    """A layer's weight (out, in, …) with its bias (out,)."""
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def _unet(size: _UNet) -> Weights:
    first, last = size.widths[0], len(size.widths) - 1
    time, blocks = 4 * first, len(size.down) // len(size.widths)
    found = _layer("time_embed.0", time, first) | _layer("time_embed.2", time, time)
    if size.label:
        found |= _layer("label_emb.0.0", time, size.label) | _layer("label_emb.0.2", time, time)

    def resnet(name: str, source: int, width: int) -> Weights:
        found = _layer(f"{name}.in_layers.0", source) | _layer(f"{name}.in_layers.2", width, source, 3, 3)
        found |= _layer(f"{name}.emb_layers.1", width, time)
        found |= _layer(f"{name}.out_layers.0", width) | _layer(f"{name}.out_layers.3", width, width, 3, 3)
        return found | (_layer(f"{name}.skip_connection", width, source, 1, 1) if source != width else {})

    def block(name: str, source: int, width: int, depth: int) -> Weights:
        return resnet(f"{name}.0", source, width) | (_transformer(f"{name}.1", width, depth, size) if depth else {})

    found |= _layer("input_blocks.0.0", first, 4, 3, 3)
    width, skips, depths = first, [first], list(size.down)
    for level, wide in enumerate(size.widths):
        for _ in range(blocks):
            found |= block(f"input_blocks.{len(skips)}", width, wide, depths.pop(0))
            width = wide
            skips.append(width)
        if level < last:
            found |= _layer(f"input_blocks.{len(skips)}.0.op", width, width, 3, 3)
            skips.append(width)
    if size.middle is not None:
        found |= block("middle_block", width, width, size.middle)
        found |= resnet("middle_block.2", width, width) if size.middle else {}
    for n, depth in enumerate(size.up):
        level, position = last - n // (blocks + 1), n % (blocks + 1)
        found |= block(f"output_blocks.{n}", width + skips.pop(), size.widths[level], depth)
        width = size.widths[level]
        if level and position == blocks:
            found |= _layer(f"output_blocks.{n}.{2 if depth else 1}.conv", width, width, 3, 3)
    return found | _layer("out.0", first) | _layer("out.2", 4, first, 3, 3)


def _transformer(name: str, width: int, depth: int, size: _UNet) -> Weights:
    square = (width, width) if size.linear else (width, width, 1, 1)
    found = _layer(f"{name}.norm", width) | _layer(f"{name}.proj_in", *square) | _layer(f"{name}.proj_out", *square)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, context in (("attn1", width), ("attn2", size.context)):
            found |= _layer(f"{block}.{attention}.to_q", width, width, bias=False)
            found |= _layer(f"{block}.{attention}.to_k", width, context, bias=False)
            found |= _layer(f"{block}.{attention}.to_v", width, context, bias=False)
            found |= _layer(f"{block}.{attention}.to_out.0", width, width)
        found |= _layer(f"{block}.ff.net.0.proj", 8 * width, width) | _layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            found |= _layer(f"{block}.{norm}", width)
    return found


def _mmdit(depth: int, *, normed: bool = False, dual: int = 0, side: int = 192) -> Weights:
    """SD3 and 3.5: ``dual`` first blocks attend twice to the image; ``side`` squared position embeddings."""
    width = 64 * depth
    found: Weights = {"pos_embed": (1, side * side, width)} | _layer("x_embedder.proj", width, 16, 2, 2)
    found |= _layer("t_embedder.mlp.0", width, 256) | _layer("t_embedder.mlp.2", width, width)
    found |= _layer("y_embedder.mlp.0", width, 2048) | _layer("y_embedder.mlp.2", width, width)
    found |= _layer("context_embedder", width, 4096)

    def attention(name: str, out: bool = True) -> Weights:
        norms = {f"{name}.ln_{letter}.weight": (64,) for letter in "qk"} if normed else {}
        proj = _layer(f"{name}.proj", width, width) if out else {}
        return _layer(f"{name}.qkv", 3 * width, width) | proj | norms

    for i in range(depth):
        for stream in ("context_block", "x_block"):
            name, whole = f"joint_blocks.{i}.{stream}", stream == "x_block" or i < depth - 1  # the last gives no text
            twice = stream == "x_block" and i < dual
            found |= attention(f"{name}.attn", whole) | (attention(f"{name}.attn2") if twice else {})
            found |= _layer(f"{name}.adaLN_modulation.1", (9 if twice else 6 if whole else 2) * width, width)
            if whole:
                found |= _layer(f"{name}.mlp.fc1", 4 * width, width) | _layer(f"{name}.mlp.fc2", width, 4 * width)
    return found | _layer("final_layer.linear", 64, width) | _layer("final_layer.adaLN_modulation.1", 2 * width, width)


def _flux(guided: bool) -> Weights:
    width, wide, found = 3072, 4 * 3072, {}
    for name, source in (("time_in", 256), ("vector_in", 768)) + ((("guidance_in", 256),) if guided else ()):
        found |= _layer(f"{name}.in_layer", width, source) | _layer(f"{name}.out_layer", width, width)
    found |= _layer("img_in", width, 64) | _layer("txt_in", width, 4096)

    def norms(name: str) -> Weights:
        return {f"{name}.{which}_norm.weight": (128,) for which in ("query", "key")}

    for i in range(19):
        for name in (f"double_blocks.{i}.img", f"double_blocks.{i}.txt"):
            found |= _layer(f"{name}_mod.lin", 6 * width, width) | norms(f"{name}_attn.norm")
            found |= _layer(f"{name}_attn.qkv", 3 * width, width) | _layer(f"{name}_attn.proj", width, width)
            found |= _layer(f"{name}_mlp.0", wide, width) | _layer(f"{name}_mlp.2", width, wide)
    for i in range(38):
        name = f"single_blocks.{i}"
        found |= _layer(f"{name}.modulation.lin", 3 * width, width) | norms(f"{name}.norm")
        found |= _layer(f"{name}.linear1", 3 * width + wide, width) | _layer(f"{name}.linear2", width, width + wide)
    return found | _layer("final_layer.linear", 64, width) | _layer("final_layer.adaLN_modulation.1", 2 * width, width)


def _clip(name: str, width: int, layers: int) -> Weights:
    root = f"{name}.transformer.text_model"
    found = _layer(f"{root}.embeddings.token_embedding", 49408, width, bias=False)
    found |= _layer(f"{root}.embeddings.position_embedding", 77, width, bias=False)
    for i in range(layers):
        layer = f"{root}.encoder.layers.{i}"
        found |= _layer(f"{layer}.layer_norm1", width) | _layer(f"{layer}.layer_norm2", width)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= _layer(f"{layer}.self_attn.{projection}", width, width)
        found |= _layer(f"{layer}.mlp.fc1", 4 * width, width) | _layer(f"{layer}.mlp.fc2", width, 4 * width)
    found |= _layer(f"{root}.final_layer_norm", width)
    return found | _layer(f"{name}.transformer.text_projection", width, width, bias=False)


def _t5(width: int = 4096, wide: int = 10240) -> Weights:
    root = "t5xxl.transformer"
    found: Weights = {f"{root}.shared.weight": (32128, width)}
    for i in range(24):
        attention, dense = (f"{root}.encoder.block.{i}.layer.{n}" for n in (0, 1))
        found |= {f"{attention}.SelfAttention.{letter}.weight": (width, width) for letter in "qkvo"}
        found |= {f"{dense}.DenseReluDense.{name}.weight": (wide, width) for name in ("wi_0", "wi_1")}
        found |= {f"{dense}.DenseReluDense.wo.weight": (width, wide)}
        found |= {f"{layer}.layer_norm.weight": (width,) for layer in (attention, dense)}
    found[f"{root}.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, 64)
    return found | {f"{root}.encoder.final_layer_norm.weight": (width,)}


_ENCODERS: dict[str, Callable[[], Weights]] = {
    "L": lambda: _clip("clip_l", 768, 12),
    "H": lambda: _clip("clip_h", 1024, 24),
    "G": lambda: _clip("clip_g", 1280, 32),
    "T5": _t5,
}
_MMDITS = {
    "SD3": {"depth": 24},
    "SD3.5 medium": {"depth": 24, "normed": True, "dual": 13, "side": 384},
    "SD3.5 large": {"depth": 38, "normed": True},
}
_FLUXES = {"Flux": True, "Flux schnell": False}  # guided or not: dev, which names all of schnell's, and schnell
_TEXT = {
    "SD 1.5": "L",
    "SD 2.x": "H",
    "SDXL refiner": "G",
    "Flux": "L T5",
    "Flux schnell": "L T5",
    "SD3": "L G T5",
    "SD3.5 medium": "L G T5",
    "SD3.5 large": "L G T5",
}
_TEXT_XL = "L G"

KNOWN = (*_UNETS, *_MMDITS, *_FLUXES)


def unet_families() -> dict[str, tuple[int, bool]]:
    """UNet family -> width of the text encoder's output, and whether the transformers' projections are matrices."""
    return {name: (size.context, size.linear) for name, size in _UNETS.items()}


@cache
def unet_blocks(family: str) -> dict[tuple[str, int, int], tuple[int, int]]:
    """Depth and width of every transformer of a UNet.

    Keys: ("down" or "up", level, number in it) as diffusers counts, ("input" or "output", block, 0) as the checkpoint
    does, ("middle", 0, 0).
    """
    size = _UNETS[family]
    levels, found = len(size.widths), {}
    blocks = len(size.down) // levels
    for n, depth in enumerate(size.down):
        level, position = divmod(n, blocks)
        number = 1 + level * (blocks + 1) + position
        found[("down", level, position)] = found[("input", number, 0)] = depth, size.widths[level]
    for n, depth in enumerate(size.up):
        level, position = divmod(n, blocks + 1)
        found[("up", level, position)] = found[("output", n, 0)] = depth, size.widths[levels - 1 - level]
    return found | {("middle", 0, 0): (size.middle or 0, size.widths[-1])}


def known_weights(architecture: str, width: int | None = None) -> dict[str, Shape]:
    """Canonical name -> shape of every weight of a known model, text encoders included; empty when it is not known.

    Args:
        architecture: one of KNOWN: what ``guess_architecture`` says, "KOALA 700M" or "Flux schnell".
        width: of the residual stream, for an SD3 or 3.5 of another size than the published (its depth is width / 64).
    """
    return dict(_weights(architecture, width))


@cache
def known_names(architecture: str, width: int | None = None) -> Names | None:
    """Every adapter key of a known model, as ``names_for`` gives it for the real checkpoint; None if not known."""
    weights = _weights(architecture, width)
    return names_for(weights) if weights else None


@cache
def _weights(architecture: str, width: int | None = None) -> Weights:
    if architecture not in KNOWN or (width is not None and (architecture not in _MMDITS or width % 64)):
        return {}
    if architecture in _UNETS:
        denoiser = _unet(_UNETS[architecture])
    elif architecture in _FLUXES:
        denoiser = _flux(_FLUXES[architecture])
    else:
        denoiser = _mmdit(**_MMDITS[architecture] | ({"depth": width // 64} if width else {}))
    found = {DENOISER + name: shape for name, shape in denoiser.items()}
    for encoder in _TEXT.get(architecture, _TEXT_XL).split():
        found |= _ENCODERS[encoder]()
    return found
