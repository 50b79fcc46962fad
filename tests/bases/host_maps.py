"""Run by the host's own python: prints, as JSON, what ComfyUI calls the modules of each model family.

Models are built on the "meta" device from their published configurations, so no weights are needed.
Usage: python host_maps.py <ComfyUI folder>
"""

import contextlib
import json
import os
import sys

sys.path.insert(0, sys.argv[1])
os.chdir(sys.argv[1])

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.lumina.model  # noqa: E402
import comfy.ldm.modules.diffusionmodules.mmdit  # noqa: E402
import comfy.ldm.modules.diffusionmodules.openaimodel  # noqa: E402
import comfy.ldm.qwen_image.model  # noqa: E402
import comfy.lora  # noqa: E402
import comfy.model_base  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.text_encoders.anima  # noqa: E402
import comfy.text_encoders.flux  # noqa: E402
import comfy.text_encoders.hunyuan_video  # noqa: E402
import comfy.text_encoders.lumina2  # noqa: E402
import comfy.text_encoders.qwen_image  # noqa: E402
import comfy.text_encoders.sd2_clip  # noqa: E402
import comfy.text_encoders.sd3_clip  # noqa: E402
import comfy.text_encoders.wan  # noqa: E402
import comfy.text_encoders.z_image  # noqa: E402
import torch  # noqa: E402

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
}
FOUR = {
    "num_res_blocks": [2] * 4,
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1] * 6 + [0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
}
XL = {
    "num_res_blocks": [2] * 3,
    "channel_mult": [1, 2, 4],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
REFINER = {
    "model_channels": 384,
    "context_dim": 1280,
    "adm_in_channels": 2560,
    "num_res_blocks": [2] * 4,
    "channel_mult": [1, 2, 4, 4],
}


def depths(down, up, middle):
    return {"transformer_depth": down, "transformer_depth_output": up, "transformer_depth_middle": middle}


UNETS = {
    "SD 1.5": UNET | FOUR | {"context_dim": 768, "num_heads": 8},
    "SD 2.x": UNET | FOUR | {"context_dim": 1024, "num_head_channels": 64, "use_linear_in_transformer": True},
    "SDXL": UNET | XL | depths([0, 0, 2, 2, 10, 10], [0, 0, 0, 2, 2, 2, 10, 10, 10], 10),
    "SSD-1B": UNET | XL | depths([0, 0, 2, 2, 4, 4], [0, 0, 0, 1, 1, 2, 10, 4, 4], -1),
    "Segmind Vega": UNET | XL | depths([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2], -1),
    "KOALA": UNET | XL | {"num_res_blocks": [1] * 3} | depths([0, 2, 6], [0, 0, 2, 2, 6, 6], 6),
    "KOALA 700M": UNET | XL | {"num_res_blocks": [1] * 3} | depths([0, 2, 5], [0, 0, 2, 2, 5, 5], -2),
    "SDXL refiner": UNET | XL | REFINER | depths([0, 0, 4, 4, 4, 4, 0, 0], [0] * 3 + [4] * 6 + [0] * 3, 4),
}


def mmdit(depth, **extra):
    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": depth * 64}}
    return {
        "input_size": None,
        "patch_size": 2,
        "in_channels": 16,
        "depth": depth,
        "adm_in_channels": 2048,
        "context_embedder_config": context,
        "num_patches": 36864,
        "pos_embed_max_size": 192,
        "pos_embed_scaling_factor": None,
    } | extra


MMDITS = {
    "SD3": mmdit(24),
    "SD3.5 large": mmdit(38, qk_norm="rms"),
    "SD3.5 medium": mmdit(
        24, qk_norm="rms", x_block_self_attn_layers=list(range(13)), num_patches=384**2, pos_embed_max_size=384
    ),
}

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}

Z_IMAGE = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 3,
    "qk_norm": True,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}


def shapes(sd):
    return {name: list(tensor.shape) for name, tensor in sd.items()}


def plain(key_map):
    out = {}
    for alias, target in key_map.items():
        name, offset, function = (*target, None)[:3] if isinstance(target, tuple) else (target, None, None)
        out[alias] = [name, list(offset) if offset else None, getattr(function, "__name__", None)]
    return out


def denoiser(model, config, kind=comfy.model_base.BaseModel):
    """The host's key map for a stand-in of its model class with this network inside."""
    sd = {"diffusion_model." + name: tensor for name, tensor in model.state_dict().items()}
    settings = type("Config", (), {"unet_config": config})
    fake = type(
        "Fake", (kind,), {"__init__": lambda self: None, "state_dict": lambda self: sd, "model_config": settings}
    )
    return {"weights": shapes(sd), "aliases": plain(comfy.lora.model_lora_keys_unet(fake(), {}))}


def encoder(model, family=None):
    """The host's key map for a text encoder, and the names under which it saves it into a checkpoint."""
    sd = model.state_dict()
    out = {"weights": shapes(sd), "aliases": plain(comfy.lora.model_lora_keys_clip(model, {}))}
    if family is not None:
        out["stored"] = shapes(family({}).process_clip_state_dict_for_saving(dict(sd)))
    return out


def main():
    meta, ops = torch.device("meta"), comfy.ops.disable_weight_init
    built = {"device": meta, "dtype": torch.float16, "operations": ops}
    host = comfy.model_base
    unet = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel
    dit = comfy.ldm.modules.diffusionmodules.mmdit.MMDiT
    out = {name: denoiser(unet(**config, **built), config) for name, config in UNETS.items()}
    out |= {name: denoiser(dit(**config, **built), config, host.SD3) for name, config in MMDITS.items()}
    for name, guidance in (("Flux", True), ("Flux schnell", False)):
        config = FLUX | {"guidance_embed": guidance}
        out[name] = denoiser(comfy.ldm.flux.model.Flux(**config, **built), config, host.Flux)
    out["Z-Image"] = denoiser(comfy.ldm.lumina.model.NextDiT(**Z_IMAGE, **built), Z_IMAGE, host.Lumina2)
    qwen = {"num_layers": 2}
    out["Qwen-Image"] = denoiser(
        comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(**qwen, **built), qwen, host.QwenImage
    )

    saved = comfy.supported_models
    texts = {"device": "meta", "dtype": torch.float16}
    half = torch.float16
    out["text SD 1.5"] = encoder(comfy.sd1_clip.SD1ClipModel(**texts), saved.SD15)
    out["text SD 2.x"] = encoder(comfy.text_encoders.sd2_clip.SD2ClipModel(**texts), saved.SD20)
    out["text SDXL"] = encoder(comfy.sdxl_clip.SDXLClipModel(**texts), saved.SDXL)
    out["text SDXL refiner"] = encoder(comfy.sdxl_clip.SDXLRefinerClipModel(**texts), saved.SDXLRefiner)
    out["text SD3"] = encoder(comfy.text_encoders.sd3_clip.sd3_clip(dtype_t5=half)(**texts), saved.SD3)
    out["text SD3 without T5"] = encoder(comfy.text_encoders.sd3_clip.sd3_clip(t5=False)(**texts))
    kinds = comfy.text_encoders
    out["text Z-Image"] = encoder(kinds.z_image.te(dtype_llama=half)(**texts))
    out["text Anima"] = encoder(kinds.anima.te(dtype_llama=half)(**texts))
    out["text Qwen-Image"] = encoder(kinds.qwen_image.te(dtype_llama=half)(**texts))
    out["text Lumina 2"] = encoder(kinds.lumina2.te(dtype_llama=half)(**texts))
    out["text NetaYume"] = encoder(kinds.lumina2.te(dtype_llama=half, model_type="gemma3_4b")(**texts))
    out["text Flux.2"] = encoder(kinds.flux.flux2_te(dtype_llama=half)(**texts))
    out["text HunyuanVideo"] = encoder(kinds.hunyuan_video.hunyuan_video_clip(dtype_llama=half)(**texts))
    out["text Wan"] = encoder(kinds.wan.te(dtype_t5=half)(**texts))
    out["text Flux"] = encoder(comfy.text_encoders.flux.flux_clip(dtype_t5=half)(**texts), saved.Flux)
    return out


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = main()
    json.dump(result, sys.stdout)
