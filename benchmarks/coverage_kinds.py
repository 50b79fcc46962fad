"""Key lists of LoRA files as other programs write them, a few blocks of each, with random values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

QKV = ("to_q", "to_k", "to_v")
QKVO = (*QKV, "to_out.0")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
UP_DOWN, PEFT = (".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")
OLD, OLDER, TEXT = (
    (".lora.up.weight", ".lora.down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
)
Shapes = dict[str, tuple[int, ...]]


def _blocks(form: str, numbers, parts, width: int, **sizes: tuple[int, int]) -> Shapes:
    """form.format(number, part) -> (width, width), or what ``sizes`` says for the part with dots as underscores."""
    return {form.format(i, p): sizes.get(p.replace(".", "_"), (width, width)) for i in numbers for p in parts}


def _unet(form: str, blocks, context: int, depth=lambda width: 1) -> Shapes:
    """form.format(block, number of transformer block, attention, part) -> shape."""
    return {
        form.format(name, d, n, part): (width, context if n == 2 and part in QKV[1:] else width)
        for name, width in blocks
        for d in range(depth(width))
        for n in (1, 2)
        for part in QKVO
    }


_SD = [(f"down_blocks.{i}.attentions.{a}", w) for i, w in enumerate((320, 640, 1280)) for a in (0, 1)]
_XL = [
    ("down_blocks.1.attentions.0", 640),
    ("down_blocks.1.attentions.1", 640),
    ("down_blocks.2.attentions.0", 1280),
    ("up_blocks.0.attentions.2", 1280),
]
_XL_OWN = [("input_blocks.4.1", 640), ("input_blocks.7.1", 1280), ("output_blocks.2.1", 1280)]
_DEPTH = {640: 2, 1280: 10}.__getitem__
_FORM = "{}.transformer_blocks.{}.attn{}.{}"


def _flat(shapes: Shapes, prefix: str = "lora_unet_") -> Shapes:
    return {prefix + key.replace(".", "_"): shape for key, shape in shapes.items()}


def _clip(prefix: str, width: int) -> Shapes:
    return {
        f"{prefix}text_model.encoder.layers.0.self_attn.{p}": (width, width)
        for p in ("q_proj", "k_proj", "v_proj", "out_proj")
    }


def _flux(prefix: str, single=QKV, double=QKVO) -> Shapes:
    wide = {"proj_mlp": (12288, 3072), "proj_out": (3072, 15360)}
    found = _blocks(prefix + "transformer_blocks.{}.attn.{}", (0, 18), double, 3072)
    attention = [p for p in single if p in QKVO]
    found |= _blocks(prefix + "single_transformer_blocks.{}.attn.{}", (0, 37), attention, 3072)
    outer = [p for p in single if p in wide]
    return found | _blocks(prefix + "single_transformer_blocks.{}.{}", (0, 37), outer, 0, **wide)


_FLUX_OWN = {
    "double_blocks.18.img_attn.qkv": (9216, 3072),
    "double_blocks.18.txt_attn.proj": (3072, 3072),
    "double_blocks.18.img_mlp.0": (12288, 3072),
    "single_blocks.37.linear1": (21504, 3072),
    "single_blocks.37.linear2": (3072, 15360),
}
_SD3_OWN = {"joint_blocks.0.x_block.attn.qkv": (4608, 1536), "joint_blocks.23.x_block.mlp.fc1": (6144, 1536)}
_HUNYUAN = _blocks("transformer.transformer_blocks.{}.attn.{}", (0, 19), (*QKVO, *ADDED), 3072) | _blocks(
    "transformer.single_transformer_blocks.{}.attn.{}", (0, 39), QKV, 3072
)
_WAN_OWN = {f"blocks.{i}.{a}.{p}": (1536, 1536) for i in (0, 29) for a in ("self_attn", "cross_attn") for p in "qkvo"}
_Z = {"transformer.layers.0.attention." + p: (3840, 3840) for p in QKVO}

# name -> (key -> shape of the weight, suffixes of the factors, alpha or None, what inspect should say)
KINDS: dict[str, tuple[Shapes, tuple[str, str], float | None, str]] = {
    "SD 1.5, sd-scripts": (_flat(_unet(_FORM, _SD, 768)) | _flat(_clip("", 768), "lora_te_"), UP_DOWN, 1.0, "SD 1.5"),
    "SD 1.5, diffusers' attention processors": (
        {
            k.replace(".to_", ".processor.to_").removesuffix(".0"): s
            for k, s in _unet("unet." + _FORM, _SD, 768).items()
        },
        OLDER,
        None,
        "SD 1.5",
    ),
    "SD 1.5, diffusers": (_unet("unet." + _FORM, _SD, 768), OLD, None, "SD 1.5"),
    "SDXL, sd-scripts": (
        _flat(_unet(_FORM, _XL_OWN, 2048, _DEPTH)) | _flat(_clip("", 1280), "lora_te2_"),
        UP_DOWN,
        4.0,
        "SDXL",
    ),
    "SDXL, diffusers": (_unet("unet." + _FORM, _XL, 2048, _DEPTH), OLD, None, "SDXL"),
    "SDXL, diffusers' text encoders": (_clip("text_encoder_2.", 1280), TEXT, None, "SDXL"),
    "SDXL, PEFT": (_unet("base_model.model." + _FORM, _XL, 2048, _DEPTH), PEFT, None, "SDXL"),
    "SDXL, one down block": (_unet("unet." + _FORM, _XL[:2], 2048, _DEPTH), PEFT, None, "SDXL or SSD-1B"),
    "SD3, diffusers": (
        _blocks("transformer.transformer_blocks.{}.attn.{}", (0, 22), (*QKVO, *ADDED), 1536),
        PEFT,
        None,
        "SD3",
    ),
    "SD3, q and k alone": (
        _blocks("transformer.transformer_blocks.{}.attn.{}", (0, 22), QKV[:2], 1536),
        PEFT,
        None,
        "SD3",
    ),
    "SD3, sd-scripts": (_flat(_SD3_OWN), UP_DOWN, 1.0, "SD3"),
    "Flux, diffusers without proj_mlp": (_flux("transformer."), PEFT, None, "Flux"),
    "Flux, diffusers, k alone": (_flux("transformer.", QKV[1:2], QKV[1:2]), PEFT, None, "Flux"),
    "Flux, all linear layers": (
        _flux("transformer.", (*QKV, "proj_mlp", "proj_out"), (*QKVO, *ADDED)),
        PEFT,
        None,
        "Flux",
    ),
    "Flux, sd-scripts": (_flat(_FLUX_OWN), UP_DOWN, 1.0, "Flux"),
    "Flux, ComfyUI": ({"diffusion_model." + k: s for k, s in _FLUX_OWN.items()}, UP_DOWN, 1.0, "Flux"),
    "Flux, linear1_qkv": ({"diffusion_model.single_blocks.37.linear1_qkv": (9216, 3072)}, PEFT, None, "Flux"),
    "Flux, OneTrainer": (_flat(_flux("", (*QKV, "proj_mlp")), "lora_transformer_"), UP_DOWN, 1.0, "Flux"),
    "Flux, SimpleTuner": (_flat(_flux(""), "lycoris_"), UP_DOWN, 1.0, "Flux"),
    "Flux.2, diffusers": (
        {"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": (55296, 6144)},
        PEFT,
        None,
        "Flux.2",
    ),
    "HunyuanVideo, diffusers": (_HUNYUAN, PEFT, None, "HunyuanVideo"),
    "HunyuanVideo, musubi": (
        _flat({"double_blocks.19.img_attn_qkv": (9216, 3072), "single_blocks.39.linear1": (21504, 3072)}),
        UP_DOWN,
        1.0,
        "HunyuanVideo",
    ),
    "Qwen-Image, attention only": (
        _blocks("transformer.transformer_blocks.{}.attn.{}", (0, 59), QKVO, 3072),
        PEFT,
        None,
        "Qwen-Image",
    ),
    "Qwen-Image, musubi": (
        _flat(_blocks("transformer_blocks.{}.attn.{}", (0, 59), (*QKVO, *ADDED), 3072)),
        UP_DOWN,
        1.0,
        "Qwen-Image",
    ),
    "Wan, diffusers": (
        {f"transformer.blocks.{i}.{a}.{p}": (1536, 1536) for i in (0, 29) for a in ("attn1", "attn2") for p in QKVO},
        PEFT,
        None,
        "Wan",
    ),
    "Wan, ComfyUI": ({"diffusion_model." + k: s for k, s in _WAN_OWN.items()}, PEFT, None, "Wan"),
    "Wan, musubi": (_flat(_WAN_OWN), UP_DOWN, 1.0, "Wan"),
    "CogVideoX 5B, diffusers": (
        _blocks("transformer.transformer_blocks.{}.attn1.{}", (0, 41), QKVO, 3072),
        PEFT,
        None,
        "CogVideoX",
    ),
    "LTX-Video, diffusers": (
        {f"transformer.transformer_blocks.0.{a}.{p}": (2048, 2048) for a in ("attn1", "attn2") for p in QKVO},
        PEFT,
        None,
        "LTX-Video",
    ),
    "Sana 1.6B, diffusers": (
        {f"transformer.transformer_blocks.0.{a}.{p}": (2240, 2240) for a in ("attn1", "attn2") for p in QKVO},
        PEFT,
        None,
        "Sana",
    ),
    "Mochi, diffusers": (
        _blocks("transformer.transformer_blocks.{}.attn1.{}", (0,), (*QKVO, "add_q_proj"), 3072),
        PEFT,
        None,
        "Mochi",
    ),
    "Z-Image, diffusers": (_Z, PEFT, None, "Z-Image"),
    "Z-Image, ComfyUI": ({"diffusion_model.layers.0.attention.qkv": (11520, 3840)}, UP_DOWN, 1.0, "Z-Image"),
    "Lumina 2, diffusers": ({"transformer.layers.0.attn.to_q": (2304, 2304)}, PEFT, None, "Lumina 2"),
    "HiDream, diffusers": (
        {"transformer.double_stream_blocks.0.block.attn1.to_q": (2560, 2560)},
        PEFT,
        None,
        "HiDream",
    ),
    "AuraFlow, diffusers": ({"transformer.joint_transformer_blocks.0.attn.to_q": (3072, 3072)}, PEFT, None, "AuraFlow"),
}


def tensors_of(kind: str, rank: int = 2) -> dict[str, Tensor]:
    """The file's tensors, float32; ranks alternate between ``rank`` and twice it where there is an alpha."""
    shapes, (up, down), alpha, _ = KINDS[kind]
    generator = torch.Generator().manual_seed(len(kind))
    return dict(_tensors(shapes, up, down, alpha, rank, generator))


def _tensors(shapes, up, down, alpha, rank, generator) -> Iterator[tuple[str, Tensor]]:
    for number, (key, (rows, columns)) in enumerate(shapes.items()):
        mine = rank * (1 + number % 2)
        yield key + up, torch.randn(rows, mine, generator=generator)
        yield key + down, torch.randn(mine, columns, generator=generator)
        if alpha is not None:
            yield key + ".alpha", torch.tensor(alpha)
