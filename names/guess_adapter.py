"""Which model families an adapter alone can belong to: told from its keys, widths and how far they reach."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .alike import flat
from .guess import CONTEXTS, UNKNOWN, Shape
from .keys import NUMBER, is_text_encoder
from .known import unet_blocks, unet_families

OR = " or "
Shapes = Mapping[str, "Shape | None"]
Block = tuple[str, int, int]

# Patterns over an adapter's module keys; "." and "_" are the same there. First match wins.
_YOUNG = (
    (r"(^|_)(repo_layers_\d+|cam_refiner)_", "TripoSplat"),
    (r"(down|up)_blocks_\d+_\d+_(attention_attn|kv_mapper|channelwise)_", "Stable Cascade"),
    (r"(^|_)diffusion_transformer_transformer_layers_\d+_", "MiniMax Music"),
    (r"(^|_)transformer_layers_\d+_(self_attn_to_qkv|cross_attn_to_kv)$", "Stable Audio"),
    (r"(^|_)blocks_\d+_cross_attn_(q|kv)_linear$", "PixArt"),
    (r"(^|_)blocks_\d+_attn\d_(Wqkv|q_proj|kv_proj)$", "HunyuanDiT"),
    (r"(^|_)blocks_\d+_moe_", "Hunyuan3D"),
    (r"(^|_)transformer_blocks_\d+_(audio_to_video|video_to_audio)_attn_", "LTX-Video"),
    (r"(^|_)blocks_\d+_attn_(qkv_proj|out_proj)$", "MiniMax H3"),
    (r"(^|_)blocks_block\d+_blocks_", "Cosmos"),
    (r"(^|_)llm_adapter_blocks_\d+_", "Anima"),
    (r"(^|_)blocks_\d+_(self|cross)_attn_(q|k|v|output)_proj$", "Cosmos Predict2"),
    (r"(^|_)(patch|pixel)_blocks_\d+_", "PixelDiT"),
    (r"(^|_)blocks_\d+_(attn_proj_(qkv|out)|mlp)_(vid|txt|all)(_|$)", "SeedVR2"),
    (r"(^|_)transformer_blocks_\d+_cross_attn_(to|add)_", "ACE-Step"),
    (r"^(diffusion_model_|lora_unet_)?decoder_layers_\d+_(self|cross)_attn_[qkvo]_proj$", "ACE-Step 1.5"),
    (r"(^|_)(double_stream|single_stream)_layers_\d+_", "Boogu"),
    (r"(^|_)ref_image_refiner_\d+_", "Omnigen2"),
    (r"(^|_)double_blocks_\d+_attn_img_attn_", "JoyImage"),
    (r"(^|_)layers_\d+_(attention_o|adaln_modulation)$", "Ideogram 4"),
    (r"(^|_)blocks_\d+_attn_w[qkvo]$|(^|_)(txtfusion|text_fusion)_|(^|_)blocks_\d+_attn_to_gate$", "Krea 2"),
    (r"(^|_)transformer_blocks_\d+_attn_(img|txt)_qkv$", "Lens"),
    (r"(^|_)(visual|text)_transformer_blocks_\d+_", "Kandinsky 5"),
    (r"(^|_)layers_\d+_self_attention_to_", "Ernie-Image"),
    (r"(^|_)blocks_\d+_(q|k|v|attn_out|ff_proj)$", "CogVideoX"),
    (r"(^|_)(img2shape\w*|shape2txt|structure_model)_blocks_\d+_", "Trellis 2"),
)
_ADAPTER = (
    (r"(^|_)joint_blocks_\d+_", "SD3"),
    (r"(^|_)joint_transformer_blocks_\d+_|(^|_)(double|single)_layers_\d+_(attn_w|mlp)", "AuraFlow"),
    (r"(^|_)blocks_\d+_(attn_(qkv|proj)_[xy]|mlp_[xy])(_|$)", "Mochi"),
    (r"(^|_)(double|single)_stream_blocks_\d+_", "HiDream"),
    (r"(^|_)double_stream_modulation", "Flux.2"),
    (r"(^|_)distilled_guidance_layer_", "Chroma"),
    (
        r"token_refiner|(^|_)double_blocks_\d+_(img|txt)_m(od_linear|lp_fc)|(^|_)single_blocks_\d+_modulation_linear",
        "HunyuanVideo",
    ),
    (r"(^|_)(double_blocks_\d+_(img|txt)_|single_blocks_\d+_(linear|modulation))", "Flux"),
    (r"(^|_)single_transformer_blocks_\d+_(proj_mlp|proj_out|attn|norm)", "Flux"),
    (r"(^|_)(layers|noise_refiner|context_refiner)_\d+_(attention|adaLN_modulation|feed_forward_w)", "Z-Image"),
    (r"(^|_)(layers|noise_refiner|context_refiner)_\d+_(attn_to|feed_forward_linear)_", "Lumina 2"),
    (r"(^|_)transformer_blocks_\d+_((img|txt)_(mod|mlp))", "Qwen-Image"),
    (r"(^|_)blocks_\d+_(cross_attn|self_attn)_(q|k|v|o)(_|$)", "Wan"),
    (r"(^|_)layers_\d+_(self_attn_(q|k|v|o|qkv)_proj|mlp_(gate|up|down|gate_up)_proj)$", "language model"),
    (r"(^|_)layers_\d+_(mlp|block_sparse_moe)_experts_", "language model"),
    (r"(^|_)(encoder|decoder)_block_\d+_layer_\d_(SelfAttention|EncDecAttention|DenseReluDense)_", "language model"),
    (r"^(transformer_)?h_\d+_(attn_c_(attn|proj)|mlp_c_(fc|proj))$", "language model"),
)
_CONDITIONED = r"(lora_unet_|lycoris_|diffusion_model_)?(vector_in|guidance_in|time_in|time_text_embed)_"
_PROJ = r"(attentions_\d+|_\d+_1|middle_block_1)_proj_(in|out)$"
_JOINT = r"(^|_)transformer_blocks_\d+_(attn_|attn2_to_|ff_context_|norm1_(context_)?linear)"


def guess_adapter_architecture(modules: Shapes) -> str:
    """The family an adapter was most likely trained on, from its module keys and their (out, in, …) shapes.

    Where the keys leave several open, all of them: "SDXL or SSD-1B". "unknown" when nothing speaks for any family.
    """
    return OR.join(adapter_families(modules)) or UNKNOWN


def adapter_families(modules: Shapes) -> tuple[str, ...]:
    """Every family that the keys and shapes leave open, the commonest first; none when nothing speaks for any."""
    names = {flat(key): shape for key, shape in modules.items()}
    bodies = {flat(key): shape for key, shape in modules.items() if not is_text_encoder(key)}
    for pattern, family in _YOUNG:
        if any(re.search(pattern, key) for key in bodies):
            return ("Cosmos Predict2", "Anima") if family == "Cosmos Predict2" else (family,)
    if any(re.search(r"(input|down|output|up)_blocks_\d|(middle|mid)_block_", key) for key in bodies):
        return _unet(bodies)
    for pattern, family in _ADAPTER:
        if any(re.search(pattern, key) for key in bodies):
            return _narrowed(family, bodies)
    separate = {
        key: shape
        for key, shape in bodies.items()
        if re.search(r"(^|_)(transformer_)?blocks_\d+_attn1_", key)
        or re.search(r"(^|(?<!transformer)_)blocks_\d+_(attn2_|ffn_net_)", key)
        or re.search(r"(^|_)transformer_blocks_\d+_ff_conv_", key)
    }
    if separate:
        return _separate(separate, bodies)
    if any(re.search(_JOINT, key) for key in bodies):
        return _joint(bodies)
    numbered = any(key.startswith("lora_te1_") for key in modules)
    return _text(names, numbered) if any("text_model_encoder_layers" in key for key in names) else ()


def _last(bodies: Shapes, blocks: str) -> int:
    """The highest number of a block of this list; -1 when there is none."""
    found = (re.search(rf"(?:^|_){blocks}_({NUMBER})_", re.sub(r"token_refiner\w*", "", key)) for key in bodies)
    return max((int(match[1]) for match in found if match), default=-1)


def _width(bodies: Shapes, pattern: str) -> int | None:
    """Inputs of the first module whose key ends so and whose shape is known."""
    known = ((key, shape) for key, shape in bodies.items() if shape and len(shape) > 1)
    return next((shape[1] for key, shape in known if re.search(pattern, key)), None)


def _narrowed(family: str, bodies: Shapes) -> tuple[str, ...]:
    """What shares its names with a family: told by numbers of blocks and by widths, where they tell."""
    if family == "SD3":
        return _sd3(bodies)
    if family == "Z-Image":
        if any(shape and 2520 in shape[:2] for shape in bodies.values()):
            return ("Omnigen2",)
        narrow = any(shape and 2304 in shape[:2] for shape in bodies.values())
        return ("Lumina 2",) if narrow else ("Z-Image",)
    if family != "Flux":
        return (family,)
    gated = {"linear1": 9, "mlp_proj": 9, "linear_in": 6}  # rows over columns where the feed-forward is gated
    for key, shape in bodies.items():
        ratio = next((r for end, r in gated.items() if key.endswith(end)), None)
        if (
            shape
            and len(shape) > 1
            and (shape[0] == ratio * shape[1] if ratio else re.search("(qkv|to_q)$", key) and shape[1] == 6144)
        ):
            return ("Flux.2",)
    return _blocks_of_flux(bodies)


def _blocks_of_flux(bodies: Shapes) -> tuple[str, ...]:
    """Flux; Chroma, which is Flux without modulations inside its blocks; HunyuanVideo, which has more blocks."""
    double = _last(bodies, r"(?:double_blocks|(?<!single_)transformer_blocks)")
    single = _last(bodies, r"single(?:_transformer)?_blocks")
    if double >= 19 or single >= 38:  # HunyuanVideo has 20 and 40 of them, Flux and Chroma 19 and 38
        return ("HunyuanVideo",)
    flux = any(re.search(r"_(mod|modulation)_lin$", key) or re.match(_CONDITIONED, key) for key in bodies)
    modulated = flux or any(re.search(r"_norm(1|1_context)?_linear$", key) for key in bodies)
    own = flux or double == 18 or single == 37 or any(re.search(r"_(img|txt)_mlp_[02]$", key) for key in bodies)
    chroma = () if modulated else ("Chroma",)
    return ("Flux", *chroma) if own else ("Flux", *chroma, "HunyuanVideo")


def _sd3(bodies: Shapes) -> tuple[str, ...]:
    if any(re.search(r"_attn2_(to_[qkv]|qkv|proj)$", key) for key in bodies):
        return ("SD3.5 medium",)
    width = _width(bodies, r"_attn_(to_q|add_q_proj|qkv|proj)$|_mlp_fc1$|_ff_net_0_proj$")
    return ("SD3.5 large",) if width == 2432 else ("SD3",)


def _joint(bodies: Shapes) -> tuple[str, ...]:
    """Blocks that attend to text and image at once, under diffusers' names and with nothing else to tell them."""
    if any(re.search(r"_attn2_to_[qkv]$", key) for key in bodies):
        return ("SD3.5 medium",)
    width = _width(
        bodies,
        r"_attn_(to_[qkv]|add_[qkv]_proj)$|_ff(_context)?_net_0_proj$|_attn_to_(out_0|add_out)$"
        r"|_norm1(_context)?_linear$",
    )
    if width is None:
        return ()
    if width != 3072:
        return ("SD3.5 large",) if width == 2432 else ("SD3",)
    last = _last(bodies, "transformer_blocks")
    if last >= 20:  # Flux has 19 such blocks, HunyuanVideo 20, Qwen-Image 60
        return ("Qwen-Image",)
    if any(re.search(r"_(ff|ff_context)_net_|_norm1(_context)?_linear$", key) for key in bodies):
        chroma = () if any(re.search(r"_norm1(_context)?_linear$", key) for key in bodies) else ("Chroma",)
        return ("Flux", *chroma, "HunyuanVideo") if last < 19 else ("HunyuanVideo",)
    return ("Flux", "Chroma", "HunyuanVideo", "Qwen-Image") if last < 19 else ("HunyuanVideo", "Qwen-Image")


def _separate(keys: Shapes, bodies: Shapes) -> tuple[str, ...]:
    """Blocks with an attention to the image (attn1), and perhaps another to the text (attn2)."""
    width, text = _width(bodies, r"_attn[12]_to_(q|out_0)$"), _width(bodies, r"_attn2_to_[kv]$")
    if not any(re.search(r"(^|_)transformer_blocks_", key) for key in keys):
        if width in (1920, 3072) and not any(re.search(r"_(attn2|ffn_net)_", key) for key in keys):
            return ("CogVideoX",) if width == 1920 else ("CogVideoX", "Wan")
        return ("HunyuanDiT",) if width == 1408 else ("Wan",)
    if any(re.search(r"_ff_conv_(inverted|point|depth)", key) for key in bodies) or width == 2240:
        return ("Sana",)
    if any(re.search(r"_attn1_(add_[qkv]_proj|to_add_out)$", key) for key in bodies):
        return ("Mochi",)
    if width == 1152:
        return ("PixArt", "Sana")
    if width == 2048 and text in (None, 2048):
        return ("LTX-Video",)
    return ("CogVideoX",) if width in (1920, 3072) and text is None else ()


def _unet(bodies: Shapes) -> tuple[str, ...]:
    """The UNets that have every block the keys name, of its width; of those, the ones exactly as deep where one is."""
    depths: dict[Block, int] = {}
    widths: dict[Block, int] = {}
    for key, shape in bodies.items():
        if match := re.search(rf"(down|up)_blocks_({NUMBER})_attentions_({NUMBER})_", key):
            block = (match[1], int(match[2]), int(match[3]))
        elif match := re.search(
            rf"(input|output)_blocks_({NUMBER})_1_(?:transformer_blocks|proj_(?:in|out)|norm)", key
        ):
            block = (match[1], int(match[2]), 0)
        elif re.search(r"(mid_block_attentions_0|middle_block_1)_", key):
            block = ("middle", 0, 0)
        else:
            continue
        inside = re.search(rf"transformer_blocks_({NUMBER})_", key)
        depths[block] = max(depths.get(block, 0), int(inside[1]) + 1 if inside else 0)
        if shape and re.search(r"attn1_(processor_)?to_[qkv]$|proj_(in|out)$", key):
            widths[block] = shape[0]
    context = _width(bodies, r"attn2_(processor_)?to_[kv]$")
    if context is None and max(depths.values(), default=0) < 2 and not _any_linear(bodies):
        return ()
    families = [
        name
        for name, (its, linear) in unet_families().items()
        if context in (None, its) and not _wrong_proj(bodies, linear)
    ]
    # a model of another width than published still has its family's blocks
    found = _fitting(families, depths, widths) or _fitting(families, depths, {})
    if not found and context in CONTEXTS:  # blocks of no published model, but its text encoder's width
        return (CONTEXTS[context],)
    return found if len(found) < 4 else ()


def _fitting(families: list[str], depths: dict[Block, int], widths: dict[Block, int]) -> tuple[str, ...]:
    """Of these families those with every block, as deep and as wide; where some are exactly so deep, those alone."""
    fitting, exact = [], []
    for family in families:
        known = unet_blocks(family)
        if any(
            known.get(b, (0, 0))[0] < max(d, 1) or widths.get(b, known[b][1]) != known[b][1] for b, d in depths.items()
        ):
            continue
        name = family.removesuffix(" 700M")
        fitting.append(name)
        exact += [name] if all(known[b][0] == d for b, d in depths.items() if d) else []
    return tuple(dict.fromkeys(exact if depths and exact else fitting))


def _wrong_proj(bodies: Shapes, linear: bool) -> bool:
    return any(shape and (len(shape) == 2) != linear for key, shape in bodies.items() if re.search(_PROJ, key))


def _any_linear(bodies: Shapes) -> bool:
    """Whether a projection's shape tells a convolution from a matrix."""
    return any(shape and re.search(_PROJ, key) for key, shape in bodies.items())


def _text(names: Shapes, numbered: bool) -> tuple[str, ...]:
    """By the widths of a text encoder; trainers number the encoders of a model that has two."""
    widths = {shape[1] for key, shape in names.items() if shape and key.endswith("self_attn_q_proj")}
    if 1280 in widths or numbered:
        return ("SDXL",)
    family = {768: "SD 1.5", 1024: "SD 2.x"}.get(next(iter(widths), 0))
    return (family,) if family else ()
