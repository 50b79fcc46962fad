"""Which model family weights, or an adapter alone, belong to: told from names and widths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Shape = tuple[int, ...]

UNKNOWN = "unknown"
_CONTEXT = {768: "SD 1.5", 1024: "SD 2.x", 1280: "SDXL refiner", 2048: "SDXL"}
_WRAPPERS = ("model.diffusion_model.", "diffusion_model.")


def guess_architecture(shapes: Mapping[str, Shape]) -> str:
    """The family of a base from its weight names (canonical, or a checkpoint's own) and shapes.

    One of "SD 1.5", "SD 2.x", "SDXL", "SSD-1B", "Segmind Vega", "KOALA", "SDXL refiner", "SD3", "SD3.5 medium",
    "SD3.5 large", "Flux", "Flux.2", "Chroma", "HunyuanVideo", "Z-Image", "Lumina 2", "Qwen-Image", "Wan",
    "language model", "text encoder", "unknown".
    """
    names: dict[str, Shape] = {}
    for name, shape in shapes.items():
        wrapper = next((p for p in _WRAPPERS if name.startswith(p)), "")
        names[name[len(wrapper) :]] = tuple(shape)
    if any(name.startswith(("input_blocks.", "middle_block.")) for name in names):
        return _unet(names)
    if any(name.startswith("joint_blocks.") for name in names):
        return _sd3(names)
    if any(name.startswith(("double_blocks.", "single_blocks.")) for name in names):
        return _flux(names)
    if "layers.0.attention.qkv.weight" in names and any(n.startswith("cap_embedder.") for n in names):
        rows, width = names["layers.0.attention.qkv.weight"]
        return "Z-Image" if rows == 3 * width else "Lumina 2"
    if _any(names, r"transformer_blocks\.0\.img_mod\.") and _any(names, r"transformer_blocks\.0\.attn\.add_q_proj\."):
        return "Qwen-Image"
    if _any(names, r"blocks\.0\.cross_attn\.k\.") and _any(names, r"(time_projection|patch_embedding)\."):
        return "Wan"
    if _any(names, r"blocks\.0\.attn2\.to_k\.") and _any(names, r"condition_embedder\."):
        return "Wan"
    if _any(names, r"(.*\.)?layers\.0\.self_attn\.q_proj\.") and _any(names, r"(.*\.)?layers\.0\.mlp\.gate_proj\."):
        return "language model"
    if _any(names, r"(clip_|t5xxl\.)"):
        return "text encoder"
    return UNKNOWN


def _any(names: Iterable[str], pattern: str) -> bool:
    return any(re.match(pattern, name) for name in names)


def _unet(names: Mapping[str, Shape]) -> str:
    context = next((shape[-1] for name, shape in names.items() if name.endswith("attn2.to_k.weight")), None)
    family = _CONTEXT.get(context, UNKNOWN)
    if family != "SDXL":
        return family
    depths: dict[int, int] = {}
    for name in names:
        if match := re.match(r"input_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\.", name):
            block, depth = int(match.group(1)), int(match.group(2)) + 1
            depths[block] = max(depths.get(block, 0), depth)
    return {4: "SSD-1B", 2: "Segmind Vega", 5: "KOALA", 6: "KOALA"}.get(max(depths.values(), default=0), "SDXL")


def _sd3(names: Mapping[str, Shape]) -> str:
    if _any(names, r"joint_blocks\.0\.x_block\.attn2\."):
        return "SD3.5 medium"
    return "SD3.5 large" if _any(names, r"joint_blocks\.0\.x_block\.attn\.ln_q\.") else "SD3"


def _flux(names: Mapping[str, Shape]) -> str:
    if _any(names, r"distilled_guidance_layer\."):
        return "Chroma"
    if _any(names, r"double_stream_modulation_img\."):
        return "Flux.2"
    return "HunyuanVideo" if _any(names, r"txt_in\.(individual_token_refiner|t_embedder)\.") else "Flux"


# Patterns over an adapter's module keys; "." and "_" are the same there.
_ADAPTER = (
    (r"(^|_)joint_blocks_\d+_", "SD3"),
    (r"(^|_)(double_blocks_\d+_(img|txt)_|single_blocks_\d+_linear)", "Flux"),
    (r"(^|_)single_transformer_blocks_\d+_(proj_mlp|proj_out|attn|norm)", "Flux"),
    (r"(^|_)(layers|noise_refiner|context_refiner)_\d+_(attention|adaLN_modulation|feed_forward_w)", "Z-Image"),
    (r"(^|_)transformer_blocks_\d+_((img|txt)_(mod|mlp))", "Qwen-Image"),
    (r"(^|_)blocks_\d+_(cross_attn|self_attn)_(q|k|v|o)(_|$)", "Wan"),
    (r"(^|_)layers_\d+_(self_attn_(q|k|v|o)_proj|mlp_(gate|up|down)_proj)$", "language model"),
)


def guess_adapter_architecture(modules: Mapping[str, Shape | None]) -> str:
    """The family an adapter was most likely trained on, from its module keys and their (out, in, …) shapes.

    A width decides between the UNets: the input of ``attn2.to_k`` is the text encoder's. SSD-1B and Vega are told
    from SDXL by how deep the keys reach, which an adapter that leaves deep blocks out may understate.
    "unknown" when nothing speaks for any family.
    """
    flat = {key.replace(".", "_"): shape for key, shape in modules.items()}
    bodies = {key: shape for key, shape in flat.items() if not re.match(r"lora_(prior_)?te\d?_|text_encoder", key)}
    unet = [key for key in bodies if re.search(r"(input|down|output|up)_blocks_\d|(middle|mid)_block_", key)]
    if unet:
        return _unet_adapter(bodies, unet)
    for pattern, family in _ADAPTER:
        if any(re.search(pattern, key) for key in bodies):
            return _told_apart(family, bodies)
    if any(re.search(r"(^|_)transformer_blocks_\d+_(attn_add_|attn_to_|ff_context_|norm1_)", key) for key in bodies):
        return _told_apart("transformer", bodies)
    if any("text_model_encoder_layers" in key for key in flat):
        return _text_adapter(flat)
    return UNKNOWN


def _told_apart(family: str, bodies: Mapping[str, Shape | None]) -> str:
    """Joint-attention models share names; the width of the residual stream tells them apart, where it is known."""
    if family not in ("SD3", "transformer"):
        return family
    if any(re.search(r"_attn2_(to_[qkv]|qkv|proj)$", key) for key in bodies):
        return "SD3.5 medium"
    for key, shape in bodies.items():
        if shape and re.search(r"_attn_(to_q|add_q_proj|qkv)$", key):
            return {2432: "SD3.5 large", 3072: "Flux"}.get(shape[1], "SD3")
    return "SD3" if family == "SD3" else UNKNOWN


def _unet_adapter(bodies: Mapping[str, Shape | None], unet: list[str]) -> str:
    context = next((bodies[k][1] for k in unet if k.endswith(("attn2_to_k", "attn2_to_v")) and bodies[k]), None)
    family = _CONTEXT.get(context, UNKNOWN)
    depths: dict[str, int] = {}
    for key in unet:
        if match := re.search(r"(input|down|middle|mid|output|up)_.*transformer_blocks_(\d+)_", key):
            depths[match.group(1)] = max(depths.get(match.group(1), 0), int(match.group(2)) + 1)
    depth = depths.get("input") or depths.get("down") or max(depths.values(), default=0)
    if family == UNKNOWN and depth > 1:  # no cross-attention in it: only the SDXL family stacks blocks
        family = "SDXL"
    if family == "SDXL" and context is not None:
        return {4: "SSD-1B", 2: "Segmind Vega", 5: "KOALA", 6: "KOALA"}.get(depth, "SDXL")
    return family


def _text_adapter(flat: Mapping[str, Shape | None]) -> str:
    widths = {shape[1] for key, shape in flat.items() if shape and key.endswith("self_attn_q_proj")}
    if 1280 in widths or any(key.startswith("lora_te1_") for key in flat):
        return "SDXL"
    return {768: "SD 1.5", 1024: "SD 2.x"}.get(next(iter(widths), 0), UNKNOWN)


# Beginnings of what trainers call a base, without punctuation and with "sd" for "stable-diffusion".
_TOLD = (
    ("flux2", UNKNOWN),
    ("flux", "Flux"),
    ("sd35large", "SD3.5 large"),
    ("sd35medium", "SD3.5 medium"),
    ("sd3", "SD3"),
    ("sdxlv1refiner", "SDXL refiner"),
    ("sdxlrefiner", "SDXL refiner"),
    ("sdxl", "SDXL"),
    ("ssd1b", "SSD-1B"),
    ("segmindvega", "Segmind Vega"),
    ("sdv2", "SD 2.x"),
    ("sd2", "SD 2.x"),
    ("sdv1", "SD 1.5"),
    ("sd1", "SD 1.5"),
)


def told_architecture(metadata: Mapping[str, str]) -> str:
    """The family that an adapter's metadata names ("modelspec.architecture", "ss_base_model_version"), or "unknown"."""
    for entry in ("modelspec.architecture", "ss_base_model_version"):
        said = re.sub(r"[^a-z0-9]", "", str(metadata.get(entry, "")).lower()).replace("stablediffusion", "sd")
        family = next((family for start, family in _TOLD if said.startswith(start)), UNKNOWN)
        if family != UNKNOWN:
            return family
    return UNKNOWN
