"""ComfyUI's own loader as a judge; run by its python: python coverage_comfyui.py <ComfyUI folder>

It reads one JSON request a line and answers one a line. ``{"family": name}``: names and shapes of the model's weights,
or null where this ComfyUI has no such model. With ``"file"`` and ``"out"`` besides: applies the file to the model and
writes, for every weight that the loader patches, the change that a few random vectors see (a vector's own change); the
answer lists the file's keys that the loader did not know. ``"base"``: whether the weights are random, not zero.
``"small"`` instead of a family: ``[class of model, its configuration, file of its weights]``, a model of any size.
Models are built on the "meta" device from their published configurations, so no weights are needed.
"""

import json
import logging
import sys
from functools import cache
from pathlib import Path
from zlib import crc32

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/bases"))

import host_maps as host  # isort: split

import comfy.ldm.aura.mmdit  # (host_maps makes ComfyUI importable)
import comfy.ldm.chroma.model
import comfy.ldm.cogvideo.model
import comfy.ldm.genmo.joint_model.asymm_models_joint
import comfy.ldm.hidream.model
import comfy.ldm.hunyuan_video.model
import comfy.ldm.lightricks.model
import comfy.ldm.pixart.pixartms
import comfy.ldm.wan.model
import comfy.lora_convert
import torch
from safetensors.torch import load_file, save_file

ldm, bases = comfy.ldm, comfy.model_base
DIT = {"axes_dim": [16, 56, 56], "mlp_ratio": 4.0, "num_heads": 24, "hidden_size": 3072, "qkv_bias": True}
HUNYUAN = DIT | {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "depth": 20,
    "depth_single_blocks": 40,
    "theta": 256,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
CHROMA = {k: v for k, v in host.FLUX.items() if k != "guidance_embed"} | {
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 3072,
    "hidden_dim": 5120,
    "n_layers": 5,
}
KLEIN = host.FLUX | {
    "image_model": "flux2",
    "axes_dim": [32, 32, 32, 32],
    "mlp_ratio": 3.0,
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "vec_in_dim": None,
    "context_in_dim": 7680,
    "depth": 5,
    "depth_single_blocks": 20,
    "global_modulation": True,
    "mlp_silu_act": True,
    "qkv_bias": False,
    "ops_bias": False,
    "guidance_embed": False,
}
WAN = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
MOCHI = {
    "depth": 48,
    "num_heads": 24,
    "hidden_size_x": 3072,
    "hidden_size_y": 1536,
    "mlp_ratio_x": 4.0,
    "mlp_ratio_y": 4.0,
    "learn_sigma": False,
    "in_channels": 12,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "attn_drop": 0.0,
    "use_t5": True,
}
LUMINA = host.Z_IMAGE | {
    "dim": 2304,
    "cap_feat_dim": 2304,
    "n_layers": 26,
    "n_refiner_layers": 2,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "ffn_dim_multiplier": 4.0,
    "z_image_modulation": False,
    "time_scale": 1.0,
    "pad_tokens_multiple": None,
}
LTX = {
    "in_channels": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": 64,
    "num_attention_heads": 32,
    "caption_channels": 4096,
    "num_layers": 28,
}
COG = {"num_attention_heads": 48, "attention_head_dim": 64, "time_embed_dim": 512, "num_layers": 42}
PIXART = {"input_size": 128, "depth": 28, "pe_interpolation": 2, "micro_condition": False}
HIDREAM = {"in_channels": 16, "patch_size": 2, "caption_channels": [4096, 4096], "llama_layers": list(range(48))}
_Unet, _Mmdit = ldm.modules.diffusionmodules.openaimodel.UNetModel, ldm.modules.diffusionmodules.mmdit.MMDiT

# family -> (network, its configuration, the host's class of model, text encoder or None)
FAMILIES = {
    **{name: (_Unet, config, bases.BaseModel, None) for name, config in host.UNETS.items()},
    **{name: (_Mmdit, config, bases.SD3, None) for name, config in host.MMDITS.items()},
    "Flux": (ldm.flux.model.Flux, host.FLUX, bases.Flux, None),
    "Flux.2": (ldm.flux.model.Flux, KLEIN, bases.Flux2, None),
    "Chroma": (ldm.chroma.model.Chroma, CHROMA, bases.Chroma, None),
    "HunyuanVideo": (ldm.hunyuan_video.model.HunyuanVideo, HUNYUAN, bases.HunyuanVideo, None),
    "Qwen-Image": (ldm.qwen_image.model.QwenImageTransformer2DModel, {"num_layers": 60}, bases.QwenImage, None),
    "Wan": (ldm.wan.model.WanModel, WAN, bases.WAN21, None),
    "LTX-Video": (ldm.lightricks.model.LTXVModel, LTX, bases.LTXV, None),
    "Mochi": (ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint, MOCHI, bases.GenmoMochi, None),
    "Z-Image": (ldm.lumina.model.NextDiT, host.Z_IMAGE | {"n_layers": 30}, bases.Lumina2, None),
    "Lumina 2": (ldm.lumina.model.NextDiT, LUMINA, bases.Lumina2, None),
    "HiDream": (ldm.hidream.model.HiDreamImageTransformer2DModel, HIDREAM, bases.HiDream, None),
    "AuraFlow": (ldm.aura.mmdit.MMDiT, {"in_channels": 4}, bases.AuraFlow, None),
    "CogVideoX": (ldm.cogvideo.model.CogVideoXTransformer3DModel, COG, bases.CogVideoX, None),
    "PixArt": (ldm.pixart.pixartms.PixArtMS, PIXART, bases.PixArt, None),
}
TEXT = {
    "SD 1.5": lambda: comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16),
    "SDXL": lambda: comfy.sdxl_clip.SDXLClipModel(device="meta", dtype=torch.float16),
}


@cache
def model(family):
    """(weight -> shape, adapter key -> weight or (weight, rows)) as the host's LoraLoader sees the model."""
    if family not in FAMILIES:
        return None
    network, config, kind, _ = FAMILIES[family]
    built = network(
        **config, device=torch.device("meta"), dtype=torch.float16, operations=comfy.ops.disable_weight_init
    )
    sd = {"diffusion_model." + name: tensor for name, tensor in built.state_dict().items()}
    keys = keys_of(kind, config, sd)
    if family in TEXT:
        encoder = TEXT[family]()
        keys, sd = comfy.lora.model_lora_keys_clip(encoder, keys), sd | encoder.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in sd.items()}, keys


def keys_of(kind, config, sd):
    """Adapter key -> weight or (weight, rows), for a stand-in of this class of model."""
    settings = type("Config", (), {"unet_config": config})
    fake = type(
        "Fake", (kind,), {"__init__": lambda self: None, "state_dict": lambda self: sd, "model_config": settings}
    )
    return comfy.lora.model_lora_keys_unet(fake(), {})


def weight(name, shape, base):
    """Zeros, or random values that depend on the name alone."""
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    return torch.randn(shape, generator=generator) if base else torch.zeros(shape)


def seen(change):
    """What a few random vectors see of a change; a vector's own change."""
    if change.ndim < 2:
        return change.double()
    flat = change.flatten(1)
    vectors = torch.randn(flat.shape[1], 4, generator=torch.Generator().manual_seed(flat.shape[1])).double()
    return torch.cat([rows.double() @ vectors for rows in flat.split(1024)])


class Missing(logging.Handler):
    """The keys, and the failures, that the loader logs."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def judge(file, out, family=None, base=False, small=None):
    if small:
        kind, config, weights = small
        values = load_file(weights)
        keys, shapes = keys_of(getattr(bases, kind), config, values), {n: tuple(t.shape) for n, t in values.items()}
    else:
        shapes, keys = model(family)
    log = Missing()
    logging.getLogger().addHandler(log)
    effects = {}
    try:
        for key, patch in comfy.lora.load_lora(comfy.lora_convert.convert_lora(load_file(file)), keys).items():
            name, offset, function = (key, None, None) if isinstance(key, str) else (*key, None)[:3]
            if name not in shapes:  # a bias beside a slice: the host gives it a name that no weight has
                continue
            before = values[name] if small else weight(name, shapes[name], base)
            after = comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, function)], before.clone(), name)
            effects[name] = effects.get(name, 0) + seen(after.sub_(before) if base or small else after)
    finally:
        logging.getLogger().removeHandler(log)
    save_file(effects, out)
    return log.lines


def main():
    answers, sys.stdout = sys.stdout, sys.stderr  # what the host prints must not mix with the answers
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            found = judge(**asked) if "file" in asked else model(asked["family"]) and model(asked["family"])[0]
        except Exception as problem:
            found = {"error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        main()
