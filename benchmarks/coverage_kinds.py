"""Key lists of LoRA files as other programs write them, a few blocks of each, with random values."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from coverage_formats import (
    NAMED,
    OLD,
    OLDER,
    PEFT,
    TEXT,
    Format,
    biased,
    dora,
    full,
    locon,
    loha,
    lokr,
    lora,
    norm,
    peft_dora,
    spelled,
    uneven,
)
from torch import Tensor

QKV = ("to_q", "to_k", "to_v")
QKVO = (*QKV, "to_out.0")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
Shapes = dict[str, tuple[int, ...]]


class Kind(NamedTuple):
    """A kind of file: its module keys with their weights' shapes, its format, and what inspect should say of it.

    model: the family whose model the judges load, where that is not what inspect says.
    """

    shapes: Shapes
    format: Format
    recognised: str
    model: str | None = None

    @property
    def family(self) -> str:
        return self.model or self.recognised


ALPHA_1, ALPHA_4 = partial(lora, alpha=1.0), partial(lora, alpha=4.0)
P = spelled(PEFT)


def _blocks(form: str, numbers, parts, width: int, **sizes: tuple[int, int]) -> Shapes:
    """form.format(number, part) -> (width, width), or what ``sizes`` says for the part with dots as underscores."""
    return {form.format(i, p): sizes.get(p.replace(".", "_"), (width, width)) for i in numbers for p in parts}


def _unet(form: str, blocks, context: int, depth=lambda width: 1) -> Shapes:
    """form.format(block, number of transformer block, attention, part) -> shape."""
    return {
        form.format(name, d, n, part): (width, context if n == 2 and part in QKV[1:] else width)
        for name, width in blocks
        for d in sorted({0, depth(width) - 1})
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

EITHER = "Flux or Chroma"  # blocks alone: Chroma is Flux without modulations in them


def _prefixed(shapes: Shapes, prefix: str = "diffusion_model.") -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def _own(shapes: Shapes) -> Shapes:
    """The keys without their first word."""
    return {key.partition(".")[2]: shape for key, shape in shapes.items()}


def _few(shapes: Shapes) -> Shapes:
    return dict(list(shapes.items())[:2])


_SD_CONV = {
    "conv_in": (320, 4, 3, 3),
    "down_blocks.0.resnets.0.conv1": (320, 320, 3, 3),
    "down_blocks.0.resnets.0.time_emb_proj": (320, 1280),
    "down_blocks.1.resnets.0.conv_shortcut": (640, 320, 1, 1),
    "down_blocks.0.downsamplers.0.conv": (320, 320, 3, 3),
    "up_blocks.1.upsamplers.0.conv": (1280, 1280, 3, 3),
    "down_blocks.0.attentions.0.proj_in": (320, 320, 1, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (320, 320),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (320, 768),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": (10240, 1280),
}
_SD_SMALL = {key: _SD_CONV[key] for key in _SD_CONV if "proj_in" in key or "attn" in key}
_XL_CONV = {
    "input_blocks.1.0.in_layers.2": (320, 320, 3, 3),
    "input_blocks.1.0.emb_layers.1": (320, 1280),
    "input_blocks.4.0.skip_connection": (640, 320, 1, 1),
    "input_blocks.3.0.op": (320, 320, 3, 3),
    "input_blocks.4.1.proj_in": (640, 640),
    "output_blocks.2.2.conv": (1280, 1280, 3, 3),
    "input_blocks.7.1.transformer_blocks.9.attn1.to_q": (1280, 1280),
    "output_blocks.2.1.transformer_blocks.9.attn2.to_v": (1280, 2048),
}
_XL_NORMS = {
    "input_blocks.4.1.norm": (640,),
    "input_blocks.1.0.in_layers.0": (320,),
    "input_blocks.7.1.transformer_blocks.9.norm1": (1280,),
}
_SD3_ENDS = {"transformer.norm_out.linear": (3072, 1536), "transformer.proj_out": (64, 1536)}
_FLUX_ENDS = {
    "transformer.transformer_blocks.0.norm1.linear": (18432, 3072),
    "transformer.transformer_blocks.0.norm1_context.linear": (18432, 3072),
    "transformer.transformer_blocks.18.ff.net.0.proj": (12288, 3072),
    "transformer.transformer_blocks.18.ff_context.net.2": (3072, 12288),
    "transformer.single_transformer_blocks.37.norm.linear": (9216, 3072),
    "transformer.x_embedder": (3072, 64),
    "transformer.context_embedder": (3072, 4096),
    "transformer.time_text_embed.text_embedder.linear_1": (3072, 768),
    "transformer.norm_out.linear": (6144, 3072),
    "transformer.proj_out": (64, 3072),
}
_FLUX_OWN_ENDS = {
    "double_blocks.18.img_attn.proj": (3072, 3072),
    "img_in": (3072, 64),
    "txt_in": (3072, 4096),
    "final_layer.linear": (64, 3072),
}
_FLUX_PROCESSORS = {
    "double_blocks.18.processor.qkv_lora1": (9216, 3072),
    "double_blocks.18.processor.qkv_lora2": (9216, 3072),
    "double_blocks.18.processor.proj_lora1": (3072, 3072),
    "double_blocks.18.processor.proj_lora2": (3072, 3072),
}
_FLUX_FEW = {
    "double_blocks.18.txt_attn.qkv": (9216, 3072),
    "double_blocks.18.img_attn.proj": (3072, 3072),
    "single_blocks.37.modulation.lin": (9216, 3072),
}
_FLUX_ONE = {"double_blocks.18.img_attn.proj": (3072, 3072)}
_KLEIN = {
    **_blocks("transformer.transformer_blocks.{}.attn.{}", (0, 4), (*QKVO, *ADDED), 3072),
    "transformer.transformer_blocks.4.ff.linear_in": (18432, 3072),
    "transformer.transformer_blocks.4.ff_context.linear_out": (3072, 9216),
    "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": (27648, 3072),
    "transformer.single_transformer_blocks.19.attn.to_out": (3072, 12288),
}
_KLEIN_OWN = {
    "diffusion_model.double_blocks.4.img_attn.qkv": (9216, 3072),
    "diffusion_model.double_blocks.4.txt_attn.proj": (3072, 3072),
    "diffusion_model.double_blocks.4.img_mlp.0": (18432, 3072),
    "diffusion_model.single_blocks.0.linear1": (27648, 3072),
    "diffusion_model.single_blocks.19.linear2": (3072, 12288),
}
_HUNYUAN_OWN = {
    "double_blocks.19.img_attn.qkv": (9216, 3072),
    "double_blocks.19.txt_attn.proj": (3072, 3072),
    "double_blocks.19.img_mlp.0": (12288, 3072),
    "double_blocks.19.txt_mod.lin": (18432, 3072),
    "single_blocks.39.linear1": (21504, 3072),
    "single_blocks.39.linear2": (3072, 15360),
    "single_blocks.39.modulation.lin": (9216, 3072),
    "txt_in.individual_token_refiner.blocks.0.self_attn.qkv": (9216, 3072),
}
_HUNYUAN_TENCENT = {
    "double_blocks.19.img_attn_qkv": (9216, 3072),
    "double_blocks.19.txt_attn_proj": (3072, 3072),
    "double_blocks.19.img_mlp.fc1": (12288, 3072),
    "double_blocks.19.txt_mod.linear": (18432, 3072),
    "single_blocks.39.linear1": (21504, 3072),
    "single_blocks.39.modulation.linear": (9216, 3072),
}
_HUNYUAN_REFINER = {
    **_blocks("transformer.context_embedder.token_refiner.refiner_blocks.{}.attn.{}", (0, 1), QKVO, 3072),
    "transformer.context_embedder.token_refiner.refiner_blocks.0.ff.net.0.proj": (12288, 3072),
}
_QWEN = {
    **_blocks("transformer_blocks.{}.attn.{}", (0, 59), (*QKVO, *ADDED), 3072),
    "transformer_blocks.0.img_mod.1": (18432, 3072),
    "transformer_blocks.0.txt_mlp.net.2": (3072, 12288),
}
_WAN_WIDE = {
    **{f"transformer.blocks.{i}.{a}.{p}": (1536, 1536) for i in (0, 29) for a in ("attn1", "attn2") for p in QKVO},
    "transformer.blocks.0.ffn.net.0.proj": (8960, 1536),
    "transformer.blocks.0.ffn.net.2": (1536, 8960),
    "transformer.condition_embedder.text_embedder.linear_1": (1536, 4096),
}
_WAN_WHOLE = {
    **{f"blocks.{i}.{a}.{p}": (1536, 1536) for i in range(30) for a in ("self_attn", "cross_attn") for p in "qkvo"},
    **{f"blocks.{i}.ffn.0": (8960, 1536) for i in range(30)},
    **{f"blocks.{i}.ffn.2": (1536, 8960) for i in range(30)},
}
_WAN_WIDE_OWN = {**_WAN_OWN, "blocks.0.ffn.0": (8960, 1536), "blocks.0.ffn.2": (1536, 8960)}
KINDS: dict[str, Kind] = {
    "SD 1.5, sd-scripts": Kind(_flat(_unet(_FORM, _SD, 768)) | _flat(_clip("", 768), "lora_te_"), ALPHA_1, "SD 1.5"),
    "SD 1.5, diffusers' attention processors": Kind(
        {
            k.replace(".to_", ".processor.to_").removesuffix(".0"): s
            for k, s in _unet("unet." + _FORM, _SD, 768).items()
        },
        spelled(OLDER),
        "SD 1.5",
    ),
    "SD 1.5, diffusers": Kind(_unet("unet." + _FORM, _SD, 768), spelled(OLD), "SD 1.5"),
    "SDXL, sd-scripts": Kind(
        _flat(_unet(_FORM, _XL_OWN, 2048, _DEPTH)) | _flat(_clip("", 1280), "lora_te2_"),
        ALPHA_4,
        "SDXL",
    ),
    "SDXL, diffusers": Kind(_unet("unet." + _FORM, _XL, 2048, _DEPTH), spelled(OLD), "SDXL"),
    "SDXL, diffusers' text encoders": Kind(_clip("text_encoder_2.", 1280), spelled(TEXT), "SDXL"),
    "SDXL, PEFT": Kind(_unet("base_model.model." + _FORM, _XL, 2048, _DEPTH), P, "SDXL"),
    "SD 1.5, sd-scripts LoCon": Kind(_flat(_SD_CONV), ALPHA_1, "SD 1.5"),
    "SD 1.5, LyCORIS LoCon with cores": Kind(_flat(_SD_CONV), locon, "SD 1.5"),
    "SD 1.5, LyCORIS LoHa": Kind(_flat(_SD_CONV), loha, "SD 1.5"),
    "SD 1.5, LyCORIS LoKr": Kind(_flat(_SD_CONV), lokr, "SD 1.5"),
    "SD 1.5, LyCORIS LoKr, halves whole": Kind(_flat(_SD_SMALL), partial(lokr, whole=True), "SD 1.5"),
    "SD 1.5, LyCORIS DoRA": Kind(_flat(_SD_CONV), dora, "SD 1.5"),
    "SD 1.5, LyCORIS DoRA, by columns": Kind(_flat(_SD_CONV), partial(dora, columns=True), "SD 1.5"),
    "SD 1.5, LyCORIS full": Kind(_flat(_SD_CONV), full, "SD 1.5"),
    "SD 1.5, PEFT DoRA": Kind(_unet("base_model.model." + _FORM, _SD[:1], 768), peft_dora, "SD 1.5"),
    "SD 1.5, PEFT LoHa": Kind(_unet("base_model.model." + _FORM, _SD[:1], 768), partial(loha, alpha=None), "SD 1.5"),
    "SD 1.5, PEFT LoKr": Kind(_unet("base_model.model." + _FORM, _SD[:1], 768), partial(lokr, alpha=None), "SD 1.5"),
    "SDXL, sd-scripts LoCon": Kind(_flat(_XL_CONV), ALPHA_1, "SDXL"),
    "SDXL, OneTrainer": Kind(_flat(_unet(_FORM, _XL, 2048, _DEPTH)), ALPHA_4, "SDXL"),
    "SDXL, sd-scripts, uneven alphas": Kind(_flat(_unet(_FORM, _XL, 2048, _DEPTH)), uneven, "SDXL"),
    "SDXL, LyCORIS LoCon with cores": Kind(_flat(_XL_CONV), locon, "SDXL"),
    "SDXL, LyCORIS LoHa": Kind(_flat(_XL_CONV), loha, "SDXL"),
    "SDXL, LyCORIS LoKr": Kind(_flat(_XL_CONV), lokr, "SDXL"),
    "SDXL, LyCORIS DoRA": Kind(_flat(_XL_CONV), dora, "SDXL"),
    "SDXL, LyCORIS full": Kind(_flat(_XL_CONV), full, "SDXL"),
    "SDXL, LyCORIS norms": Kind(_flat(_XL_NORMS), norm, "SDXL"),
    "SDXL, one down block": Kind(_unet("unet." + _FORM, _XL[:2], 2048, _DEPTH), P, "SDXL or SSD-1B", "SDXL"),
    "SD3, diffusers": Kind(
        _blocks("transformer.transformer_blocks.{}.attn.{}", (0, 22), (*QKVO, *ADDED), 1536),
        P,
        "SD3",
    ),
    "SD3, q and k alone": Kind(
        _blocks("transformer.transformer_blocks.{}.attn.{}", (0, 22), QKV[:2], 1536),
        P,
        "SD3",
    ),
    "SD3, OneTrainer": Kind(
        _flat(_blocks("transformer_blocks.{}.attn.{}", (0, 22), (*QKVO, *ADDED), 1536), "lora_transformer_"),
        ALPHA_1,
        "SD3",
    ),
    "SD3, the last block": Kind(
        {"transformer.transformer_blocks.23.norm1_context.linear": (3072, 1536), **_SD3_ENDS}, P, "SD3"
    ),
    "SD3.5 medium, diffusers": Kind(
        {
            f"transformer.transformer_blocks.{i}.{a}.{p}": (1536, 1536)
            for i in (0, 12)
            for a in ("attn", "attn2")
            for p in QKVO
        },
        P,
        "SD3.5 medium",
    ),
    "SD3, sd-scripts": Kind(_flat(_SD3_OWN), ALPHA_1, "SD3"),
    "Flux, diffusers without proj_mlp": Kind(_flux("transformer."), P, EITHER, "Flux"),
    "Flux, diffusers, k alone": Kind(_flux("transformer.", QKV[1:2], QKV[1:2]), P, EITHER, "Flux"),
    "Flux, all linear layers": Kind(
        _flux("transformer.", (*QKV, "proj_mlp", "proj_out"), (*QKVO, *ADDED)),
        P,
        EITHER,
        "Flux",
    ),
    "Flux, sd-scripts": Kind(_flat(_FLUX_OWN), ALPHA_1, EITHER, "Flux"),
    "Flux, ComfyUI": Kind({"diffusion_model." + k: s for k, s in _FLUX_OWN.items()}, ALPHA_1, EITHER, "Flux"),
    "Flux, linear1_qkv": Kind({"diffusion_model.single_blocks.37.linear1_qkv": (9216, 3072)}, P, EITHER, "Flux"),
    "Flux, OneTrainer": Kind(_flat(_flux("", (*QKV, "proj_mlp")), "lora_transformer_"), ALPHA_1, EITHER, "Flux"),
    "Flux, SimpleTuner": Kind(_flat(_flux(""), "lycoris_"), ALPHA_1, EITHER, "Flux"),
    "Flux, diffusers, modulations and ends": Kind(_FLUX_ENDS, P, "Flux"),
    "Flux, sd-scripts, blocks and ends": Kind(_flat(_FLUX_OWN_ENDS), ALPHA_1, EITHER, "Flux"),
    "Flux, PEFT on the checkpoint's names": Kind(_prefixed(_FLUX_OWN, "base_model.model."), P, EITHER, "Flux"),
    "Flux, XLabs": Kind(_FLUX_PROCESSORS, spelled((".up.weight", ".down.weight")), EITHER, "Flux"),
    "Flux, LoRA with a bias": Kind(_flux("transformer.", QKV[:1], QKVO[:1]), biased, EITHER, "Flux"),
    "Flux, LyCORIS LoHa": Kind(_flat(_FLUX_FEW), loha, "Flux"),
    "Flux, LyCORIS LoKr": Kind(_flat(_FLUX_FEW), lokr, "Flux"),
    "Flux, LyCORIS DoRA": Kind(_flat(_FLUX_FEW), dora, "Flux"),
    "Flux, LyCORIS full": Kind(_flat(_FLUX_ONE), partial(full, bias=True), EITHER, "Flux"),
    "Flux, SimpleTuner LoKr": Kind(_flat(_flux("", QKV[:1], QKVO[:1]), "lycoris_"), lokr, EITHER, "Flux"),
    "Flux, diffusers DoRA": Kind(_flux("transformer.", QKV[:1], QKVO[:1]), peft_dora, EITHER, "Flux"),
    "Flux.2 klein, diffusers": Kind(_KLEIN, P, "Flux.2"),
    "Flux.2 klein, ComfyUI": Kind(_KLEIN_OWN, P, "Flux.2"),
    "Flux.2 klein, sd-scripts": Kind(_flat(_own(_KLEIN_OWN)), ALPHA_1, "Flux.2"),
    "Chroma, diffusers": Kind(_flux("transformer.", (*QKV, "proj_mlp")), P, EITHER, "Chroma"),
    "Chroma, ComfyUI": Kind(_prefixed(_FLUX_OWN), P, EITHER, "Chroma"),
    "Chroma, sd-scripts": Kind(_flat(_FLUX_OWN), ALPHA_1, EITHER, "Chroma"),
    "HunyuanVideo, diffusers": Kind(_HUNYUAN, P, "HunyuanVideo"),
    "HunyuanVideo, diffusers with refiner": Kind(_HUNYUAN | _HUNYUAN_REFINER, P, "HunyuanVideo"),
    "HunyuanVideo, ComfyUI": Kind(_prefixed(_HUNYUAN_OWN), ALPHA_1, "HunyuanVideo"),
    "HunyuanVideo, diffusion-pipe": Kind(_prefixed(_HUNYUAN_TENCENT, "transformer."), P, "HunyuanVideo"),
    "HunyuanVideo, musubi": Kind(
        _flat({"double_blocks.19.img_attn_qkv": (9216, 3072), "single_blocks.39.linear1": (21504, 3072)}),
        ALPHA_1,
        "HunyuanVideo",
    ),
    "Qwen-Image, attention only": Kind(
        _blocks("transformer.transformer_blocks.{}.attn.{}", (0, 59), QKVO, 3072),
        P,
        "Qwen-Image",
    ),
    "Qwen-Image, musubi": Kind(
        _flat(_blocks("transformer_blocks.{}.attn.{}", (0, 59), (*QKVO, *ADDED), 3072)),
        ALPHA_1,
        "Qwen-Image",
    ),
    "Qwen-Image, ai-toolkit": Kind(_prefixed(_QWEN), P, "Qwen-Image"),
    "Qwen-Image, DiffSynth": Kind(_QWEN, spelled(NAMED), "Qwen-Image"),
    "Qwen-Image, SimpleTuner LoKr": Kind(_flat(_QWEN, "lycoris_"), lokr, "Qwen-Image"),
    "Wan, diffusers, with feed-forward": Kind(_WAN_WIDE, P, "Wan"),
    "Wan, ComfyUI, with feed-forward": Kind(_prefixed(_WAN_WIDE_OWN), P, "Wan"),
    "Wan, musubi, every block": Kind(_flat(_WAN_WHOLE), ALPHA_1, "Wan"),
    "Wan Fun": Kind(_flat(_WAN_OWN, "lora_unet__"), ALPHA_1, "Wan"),
    "Wan, DiffSynth": Kind(_WAN_OWN, spelled(NAMED), "Wan"),
    "Wan, with differences": Kind(_prefixed(_few(_WAN_OWN)), partial(full, bias=True), "Wan"),
    "Wan, diffusers": Kind(
        {f"transformer.blocks.{i}.{a}.{p}": (1536, 1536) for i in (0, 29) for a in ("attn1", "attn2") for p in QKVO},
        P,
        "Wan",
    ),
    "Wan, ComfyUI": Kind({"diffusion_model." + k: s for k, s in _WAN_OWN.items()}, P, "Wan"),
    "Wan, musubi": Kind(_flat(_WAN_OWN), ALPHA_1, "Wan"),
    "CogVideoX 5B, diffusers": Kind(
        _blocks("transformer.transformer_blocks.{}.attn1.{}", (0, 41), QKVO, 3072),
        P,
        "CogVideoX",
    ),
    "LTX-Video, diffusers": Kind(
        {f"transformer.transformer_blocks.0.{a}.{p}": (2048, 2048) for a in ("attn1", "attn2") for p in QKVO},
        P,
        "LTX-Video",
    ),
    "LTX-Video, ComfyUI": Kind(
        {f"diffusion_model.transformer_blocks.0.{a}.{p}": (2048, 2048) for a in ("attn1", "attn2") for p in QKVO},
        P,
        "LTX-Video",
    ),
    "LTX-Video, ComfyUI, kohya's suffixes": Kind(
        {"diffusion_model.transformer_blocks.0.attn1.to_q": (2048, 2048)}, ALPHA_1, "LTX-Video"
    ),
    "CogVideoX 5B, ComfyUI": Kind(
        _blocks("diffusion_model.blocks.{}.attn1.{}", (0, 41), QKVO, 3072), P, "CogVideoX or Wan", "CogVideoX"
    ),
    "Mochi, Genmo": Kind(
        {"blocks.0.attn.qkv_x": (9216, 3072), "blocks.0.attn.proj_x": (3072, 3072)},
        spelled((".lora_B", ".lora_A")),
        "Mochi",
    ),
    "PixArt, diffusers": Kind(
        {f"transformer.transformer_blocks.0.{a}.{p}": (1152, 1152) for a in ("attn1", "attn2") for p in QKVO},
        P,
        "PixArt or Sana",
        "PixArt",
    ),
    "Sana 1.6B, diffusers": Kind(
        {f"transformer.transformer_blocks.0.{a}.{p}": (2240, 2240) for a in ("attn1", "attn2") for p in QKVO},
        P,
        "Sana",
    ),
    "Mochi, diffusers": Kind(
        _blocks(
            "transformer.transformer_blocks.{}.attn1.{}", (0,), (*QKVO, "add_q_proj"), 3072, add_q_proj=(3072, 1536)
        ),
        P,
        "Mochi",
    ),
    "Z-Image, diffusers": Kind(_Z, P, "Z-Image"),
    "Z-Image, ComfyUI": Kind({"diffusion_model.layers.0.attention.qkv": (11520, 3840)}, ALPHA_1, "Z-Image"),
    "Z-Image, ai-toolkit": Kind(_prefixed(_own(_Z)), P, "Z-Image"),
    "Z-Image, sd-scripts": Kind(
        _flat({"layers.0.attention.qkv": (11520, 3840), "layers.29.feed_forward.w1": (10240, 3840)}),
        ALPHA_1,
        "Z-Image",
    ),
    "Lumina 2, sd-scripts": Kind(_flat({"layers.0.attention.qkv": (3840, 2304)}), ALPHA_1, "Lumina 2"),
    "HiDream, ComfyUI, kohya's suffixes": Kind(
        {"diffusion_model.double_stream_blocks.0.block.attn1.to_q": (2560, 2560)}, ALPHA_1, "HiDream"
    ),
    "HiDream, ai-toolkit": Kind(
        {"diffusion_model.double_stream_blocks.0.block.attn1.to_q": (2560, 2560)}, P, "HiDream"
    ),
    "AuraFlow, ComfyUI": Kind({"diffusion_model.double_layers.0.attn.w1q": (3072, 3072)}, P, "AuraFlow"),
    "Lumina 2, diffusers": Kind({"transformer.layers.0.attn.to_q": (2304, 2304)}, P, "Lumina 2"),
    "HiDream, diffusers": Kind(
        {"transformer.double_stream_blocks.0.block.attn1.to_q": (2560, 2560)},
        P,
        "HiDream",
    ),
    "AuraFlow, diffusers": Kind({"transformer.joint_transformer_blocks.0.attn.to_q": (3072, 3072)}, P, "AuraFlow"),
}


def tensors_of(kind: str) -> dict[str, Tensor]:
    """The file's tensors, float32."""
    chosen, generator = KINDS[kind], torch.Generator().manual_seed(len(kind))
    return {
        key + suffix: tensor
        for number, (key, shape) in enumerate(chosen.shapes.items())
        for suffix, tensor in chosen.format(shape, number, generator).items()
    }
