"""Which model family weights, or an adapter alone, belong to: told from names and widths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .keys import NUMBER

Shape = tuple[int, ...]

UNKNOWN = "unknown"
CONTEXTS = {768: "SD 1.5", 1024: "SD 2.x", 1280: "SDXL refiner", 2048: "SDXL"}
_FEED_FORWARD = (
    r"(.*\.)?layers\.0\.(mlp\.(gate|gate_up)_proj|(mlp|block_sparse_moe)\.experts\.0\.(gate|gate_up)_proj)\."
)
_WRAPPERS = ("model.diffusion_model.", "diffusion_model.")


# Weights that together stand in the checkpoints of one family alone, in any published size; first match wins.
_MARKS = tuple(
    (family, frozenset(f"{name}.weight" for name in needed.split()))
    for family, needed in (
        ("Stable Cascade", "clf.1 effnet_mapper.0"),
        ("Stable Cascade", "clf.1 clip_txt_mapper"),
        ("Stable Audio", "preprocess_conv transformer.project_in to_cond_embed.0"),
        ("MiniMax Music", "diffusion_transformer.transformer.project_in latent_conditioners.0"),
        ("AuraFlow", "double_layers.0.attn.w1q cond_seq_linear"),
        ("PixArt", "blocks.0.cross_attn.kv_linear t_block.1"),
        ("HunyuanDiT", "blocks.0.attn1.Wqkv mlp_t5.0"),
        ("Hunyuan3D", "latent_in cond_in"),
        ("Hunyuan3D", "blocks.0.attn1.to_q x_embedder t_embedder.mlp.0"),
        ("Mochi", "blocks.0.attn.qkv_x t5_yproj"),
        ("MiniMax H3", "video_patch_proj audio_patch_proj"),
        ("LTX-Video", "patchify_proj transformer_blocks.0.attn2.to_k"),
        ("Anima", "llm_adapter.embed blocks.0.cross_attn.q_proj"),
        ("Cosmos Predict2", "x_embedder.proj.1 blocks.0.cross_attn.q_proj"),
        ("Cosmos", "x_embedder.proj.1 blocks.block0.blocks.0.block.attn.to_q.0"),
        ("PixelDiT", "s_embedder.proj patch_blocks.0.attn.qkv_y"),
        ("PixelDiT", "core.pixel_embedder.proj"),
        ("TripoSplat", "cam_refiner.mlp.0 context_refiner.0.attn.qkv"),
        ("HiDream", "double_stream_blocks.0.block.attn1.to_q"),
        ("HiDream O1", "visual.merger.norm x_embedder.proj1"),
        ("SeedVR2", "emb_in.proj_hid vid_in.proj"),
        ("ACE-Step", "genre_embedder transformer_blocks.0.cross_attn.to_k"),
        ("ACE-Step 1.5", "encoder.lyric_encoder.layers.0.input_layernorm decoder.layers.0.self_attn.q_proj"),
        ("Boogu", "double_stream_layers.0.img_self_attn.to_v"),
        ("Omnigen2", "ref_image_patch_embedder layers.0.attn.to_k"),
        ("JoyImage", "double_blocks.0.attn.img_attn_qkv"),
        ("Ideogram 4", "embed_image_indicator llm_cond_proj"),
        ("Krea 2", "txtfusion.projector first"),
        ("Lens", "transformer_blocks.0.attn.img_qkv"),
        ("Kandinsky 5", "visual_transformer_blocks.0.cross_attention.key_norm"),
        ("Ernie-Image", "layers.0.mlp.linear_fc2 layers.0.self_attention.to_q"),
        ("CogVideoX", "blocks.0.norm1.linear patch_embed.text_proj"),
        ("Trellis 2", "structure_model.input_layer"),
    )
)


def guess_architecture(shapes: Mapping[str, Shape]) -> str:
    """The family of a base from its weight names (canonical, or a checkpoint's own) and shapes.

    One of "SD 1.5", "SD 2.x", "SDXL", "SSD-1B", "Segmind Vega", "KOALA", "SDXL refiner", "SD3", "SD3.5 medium",
    "SD3.5 large", "Flux", "Flux.2", "Chroma", "HunyuanVideo", "Z-Image", "Lumina 2", "Qwen-Image", "Wan",
    "language model", "text encoder", "unknown".
    """
    wrapped = [name for name in shapes if name.startswith(_WRAPPERS)]  # what else there is tells of text encoders
    names: dict[str, Shape] = {}
    for name in wrapped or shapes:
        wrapper = next((p for p in _WRAPPERS if name.startswith(p)), "")
        names[name[len(wrapper) :]] = tuple(shapes[name])
    if any(name.startswith(("input_blocks.", "middle_block.")) for name in names):
        return _unet(names)
    if family := next((family for family, needed in _MARKS if needed.issubset(names)), None):
        return family
    if any(name.startswith("joint_blocks.") for name in names):
        return _sd3(names)
    if any(name.startswith(("double_blocks.", "single_blocks.")) for name in names):
        return _flux(names)
    fused = names.get("layers.0.attention.qkv.weight", ())
    if len(fused) == 2 and any(n.startswith("cap_embedder.") for n in names):
        rows, width = fused
        return "Z-Image" if rows == 3 * width else "Lumina 2"
    if _any(names, r"transformer_blocks\.0\.img_mod\.") and _any(names, r"transformer_blocks\.0\.attn\.add_q_proj\."):
        return "Qwen-Image"
    if _any(names, r"blocks\.0\.cross_attn\.k\.") and _any(names, r"(time_projection|patch_embedding)\."):
        return "Wan"
    if _any(names, r"blocks\.0\.attn2\.to_k\.") and _any(names, r"condition_embedder\."):
        return "Wan"
    if _any(names, r"(.*\.)?layers\.0\.self_attn\.(q|qkv)_proj\.") and _any(names, _FEED_FORWARD):
        return "language model"
    if _any(names, r"decoder\.block\.0\.layer\.1\.EncDecAttention\.") or _any(
        names, r"(transformer\.)?h\.0\.attn\.c_attn\."
    ):
        return "language model"
    if _any(names, r"(clip_|t5xxl\.)"):
        return "text encoder"
    return UNKNOWN


def _any(names: Iterable[str], pattern: str) -> bool:
    return any(re.match(pattern, name) for name in names)


def _unet(names: Mapping[str, Shape]) -> str:
    context = next((shape[-1] for name, shape in names.items() if shape and name.endswith("attn2.to_k.weight")), None)
    family = UNKNOWN if context is None else CONTEXTS.get(context, UNKNOWN)
    if family != "SDXL":
        return family
    depths: dict[int, int] = {}
    for name in names:
        if match := re.match(rf"input_blocks\.({NUMBER})\.1\.transformer_blocks\.({NUMBER})\.", name):
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


# Beginnings of what trainers call a base, without punctuation and with "sd" for "stable-diffusion".
_METADATA_NAMES = (
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


def metadata_architecture(metadata: Mapping[str, str]) -> str:
    """The family that an adapter's metadata names ("modelspec.architecture", "ss_base_model_version"), or "unknown"."""
    for entry in ("modelspec.architecture", "ss_base_model_version"):
        named = re.sub(r"[^a-z0-9]", "", str(metadata.get(entry, "")).lower()).replace("stablediffusion", "sd")
        family = next((family for start, family in _METADATA_NAMES if named.startswith(start)), UNKNOWN)
        if family != UNKNOWN:
            return family
    return UNKNOWN
