"""The family of adapters that train only a part of their model, as other people's trainers write them."""

import pytest
from lora_graft.adapters import from_state_dict
from lora_graft.jobs.inspect import inspect_adapter
from lora_graft.names import adapter_families, names_of_adapters
from torch import zeros

QKVO = ("to_q", "to_k", "to_v", "to_out.0")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def square(width, *keys):
    return {key: (width, width) for key in keys}


def blocks(count, form, width, parts=QKVO):
    return square(width, *(form.format(i) + part for i in range(count) for part in parts))


def unet(block, depth, width, context, attention=(0, 1)):
    form = f"unet.{block}.attentions.{{}}.transformer_blocks.{{}}.attn{{}}.{{}}"
    return {
        form.format(a, d, n, part): (width, context if n == 2 and part in ("to_k", "to_v") else width)
        for a in attention
        for d in range(depth)
        for n in (1, 2)
        for part in QKVO
    }


def processors():
    """SD 1.5 as diffusers' first trainer wrote it: 128 modules."""
    levels = [(f"down_blocks.{i}", w, 2) for i, w in enumerate((320, 640, 1280))]
    levels += [("mid_block", 1280, 1)] + [(f"up_blocks.{i}", w, 3) for i, w in ((1, 1280), (2, 640), (3, 320))]
    found = {}
    for name, width, count in levels:
        for key, shape in unet(name, 1, width, 768, range(count)).items():
            found[key.replace(".to_", ".processor.to_").removesuffix(".0") + "_lora"] = shape
    return found


HUNYUAN = (
    blocks(20, "transformer.transformer_blocks.{}.attn.", 3072, QKVO + ADDED)
    | blocks(40, "transformer.single_transformer_blocks.{}.attn.", 3072, QKVO[:3])
    | blocks(2, "transformer.context_embedder.token_refiner.refiner_blocks.{}.attn.", 3072)
)
T = "transformer."
FILES = {
    "Qwen-Image attention only": (blocks(60, T + "transformer_blocks.{}.attn.", 3072, QKVO + ADDED), "Qwen-Image"),
    "Qwen-Image attention bare": (blocks(60, "transformer_blocks.{}.attn.", 3072), "Qwen-Image"),
    "double attention of the first blocks": (
        blocks(5, T + "transformer_blocks.{}.attn.", 3072),
        "Flux or Chroma or HunyuanVideo or Qwen-Image",
    ),
    "SDXL, one down block": (unet("down_blocks.1", 2, 640, 2048), "SDXL or SSD-1B"),
    "SDXL, the other down block": (unet("down_blocks.2", 10, 1280, 2048), "SDXL"),
    "SDXL, two up blocks": (unet("up_blocks.0", 10, 1280, 2048), "SDXL"),
    "Vega": (unet("down_blocks.1", 1, 640, 2048) | unet("down_blocks.2", 2, 1280, 2048), "Segmind Vega"),
    "HunyuanVideo diffusers": (HUNYUAN, "HunyuanVideo"),
    "HunyuanVideo diffusers without refiner": (
        {k: s for k, s in HUNYUAN.items() if "refiner" not in k},
        "HunyuanVideo",
    ),
    "HunyuanVideo native": ({"transformer.double_blocks.0.img_mod.linear": (18432, 3072)}, "HunyuanVideo"),
    "a few single blocks": (
        {f"lora_unet_single_blocks_{i}_linear1": (21504, 3072) for i in (7, 12)},
        "Flux or Chroma or HunyuanVideo",
    ),
    "Flux attention": (
        blocks(19, T + "transformer_blocks.{}.attn.", 3072, QKVO + ADDED)
        | blocks(38, T + "single_transformer_blocks.{}.attn.", 3072, QKVO[:3]),
        "Flux or Chroma",
    ),
    "Flux attention and modulation": (
        blocks(19, T + "transformer_blocks.{}.attn.", 3072)
        | {T + "single_transformer_blocks.37.norm.linear": (9216, 3072)},
        "Flux",
    ),
    "Flux, the checkpoint's modulation": (
        {
            "lora_unet_double_blocks_3_img_attn_qkv": (9216, 3072),
            "lora_unet_double_blocks_3_img_mod_lin": (18432, 3072),
        },
        "Flux",
    ),
    "Flux, the guidance": (
        {
            "lora_unet_double_blocks_3_img_attn_qkv": (9216, 3072),
            "lora_unet_guidance_in_in_layer": (3072, 256),
        },
        "Flux",
    ),
    "Chroma": (
        {
            "diffusion_model.double_blocks.18.img_attn.qkv": (9216, 3072),
            "diffusion_model.distilled_guidance_layer.layers.0.in_layer": (5120, 5120),
        },
        "Chroma",
    ),
    "Chroma, blocks alone": ({"diffusion_model.double_blocks.18.img_attn.qkv": (9216, 3072)}, "Flux or Chroma"),
    "Mochi, Genmo": ({"blocks.0.attn.qkv_x": (9216, 3072)}, "Mochi"),
    "AuraFlow, ComfyUI": ({"diffusion_model.double_layers.0.attn.w1q": (3072, 3072)}, "AuraFlow"),
    "CogVideoX 2B, ComfyUI": ({"diffusion_model.blocks.0.attn1.to_q": (1920, 1920)}, "CogVideoX"),
    "CogVideoX 5B, ComfyUI": ({"diffusion_model.blocks.0.attn1.to_q": (3072, 3072)}, "CogVideoX or Wan"),
    "Flux.2": ({"diffusion_model.single_blocks.3.linear1": (9 * 6144, 6144)}, "Flux.2"),
    "Wan diffusers": (blocks(30, T + "blocks.{}.attn1.", 1536) | blocks(30, T + "blocks.{}.attn2.", 1536), "Wan"),
    "CogVideoX 2B": (blocks(30, T + "transformer_blocks.{}.attn1.", 1920), "CogVideoX"),
    "CogVideoX 5B": (blocks(42, T + "transformer_blocks.{}.attn1.", 3072), "CogVideoX"),
    "Sana 1.6B": (
        blocks(20, T + "transformer_blocks.{}.attn1.", 2240) | blocks(20, T + "transformer_blocks.{}.attn2.", 2240),
        "Sana",
    ),
    "Sana 600M": (blocks(28, T + "transformer_blocks.{}.attn1.", 1152), "PixArt or Sana"),
    "LTX-Video": (
        blocks(28, T + "transformer_blocks.{}.attn1.", 2048) | blocks(28, T + "transformer_blocks.{}.attn2.", 2048),
        "LTX-Video",
    ),
    "SD3 attention": (blocks(24, T + "transformer_blocks.{}.attn.", 1536), "SD3"),
    "Lumina 2": ({"diffusion_model.layers.0.attention.qkv": (3840, 2304)}, "Lumina 2"),
    "Z-Image": ({"diffusion_model.layers.0.attention.qkv": (11520, 3840)}, "Z-Image"),
    "HiDream": ({T + "double_stream_blocks.0.block.attn1.to_q": (2560, 2560)}, "HiDream"),
    "AuraFlow": ({T + "joint_transformer_blocks.0.attn.to_q": (3072, 3072)}, "AuraFlow"),
    "SD 1.5 processors": (processors(), "SD 1.5"),
}


@pytest.mark.parametrize("name", FILES)
def test_partly_trained(name):
    modules, family = FILES[name]
    tensors = {
        f"{key.removesuffix('_lora')}{'_lora' * key.endswith('_lora')}{end}": zeros(shape)
        for key, (m, n) in modules.items()
        for end, shape in (
            (".up.weight" if key.endswith("_lora") else ".lora_B.weight", (m, 1)),
            (".down.weight" if key.endswith("_lora") else ".lora_A.weight", (1, n)),
        )
    }
    adapter = from_state_dict(tensors)
    assert len(adapter.modules) == len(modules)
    found = inspect_adapter(adapter)
    assert found.architecture == family and f"Looks like an adapter for: {family}" in found.to_text()
    assert " or ".join(adapter_families({key: m.shape for key, m in adapter.modules.items()})) == family


def test_sd15_processors_count():
    assert len(processors()) == 128


def test_names_follow_the_families():
    few = FILES["a few single blocks"][0]
    assert names_of_adapters(few)[1] == "Flux"  # its names serve HunyuanVideo's blocks as well
    assert names_of_adapters(FILES["Chroma, blocks alone"][0])[1] == "Flux"
    open_ = FILES["double attention of the first blocks"][0]
    assert names_of_adapters(open_) is None
    assert names_of_adapters(open_, {"ss_base_model_version": "flux1"})[1] == "Flux"
    assert names_of_adapters(FILES["SDXL, one down block"][0])[1] == "SDXL"
    assert names_of_adapters(processors())[1] == "SD 1.5"
