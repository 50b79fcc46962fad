"""Run by the host's own python: prints, as JSON, weights and adapter keys of each class in ``supported_models.models``.

Networks stand on the "meta" device with the host's own defaults; SETTINGS gives what a class's own configuration leaves
to its checkpoint. A class that cannot be built is in the answer with its error.
Usage: python host_families.py <ComfyUI folder>
"""

import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import coverage_comfyui as known  # isort: split

import comfy.lora  # (coverage_comfyui makes ComfyUI importable)
import comfy.supported_models
import torch

host = known.host
FOUR = host.UNET | host.FOUR
VIDEO = FOUR | {
    "num_heads": 8,
    "num_head_channels": 64,
    "num_classes": "sequential",
    "video_kernel_size": [3, 1, 1],
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
}
COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 2048,
    "num_blocks": 2,
    "num_heads": 16,
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
    "concat_padding_mask": True,
}
PREDICT = COSMOS | {"crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d"}
SEEDVR = {"norm_eps": 1e-5, "num_layers": 2, "mlp_type": "normal", "vid_dim": 2560, "heads": 20}
RADIANCE = {
    "patch_size": 16,
    "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4,
    "nerf_depth": 4,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
# class, or the "image_model" of its configuration -> what its checkpoint would tell
SETTINGS = {
    **{name: host.UNETS["SD 1.5"] for name in ("Stable_Zero123", "SD15_instructpix2pix", "SD15")},
    **{name: host.UNETS["SD 2.x"] for name in ("LotusD", "SD20", "SD21UnclipL", "SD21UnclipH", "SD_X4Upscaler")},
    **{name: host.UNETS["SDXL"] for name in ("SDXL_instructpix2pix", "SDXL")},
    **{name: VIDEO for name in ("SVD_img2vid", "SV3D_u", "SV3D_p")},
    "SSD1B": host.UNETS["SSD-1B"],
    "KOALA_700M": host.UNETS["KOALA 700M"],
    "KOALA_1B": host.UNETS["KOALA"],
    "Segmind_Vega": host.UNETS["Segmind Vega"],
    "SDXLRefiner": host.UNETS["SDXL refiner"],
    "SD3": host.MMDITS["SD3"],
    "StableAudio": {"timestep_features_type": "learned"},
    "StableAudio3": {"timestep_features_type": "expo"},
    "flux": host.FLUX,
    "flux2": known.KLEIN,
    "chroma": known.CHROMA,
    "chroma_radiance": known.CHROMA | {"in_channels": 3, "out_channels": 3} | RADIANCE,
    "mochi_preview": known.MOCHI,
    "hunyuan_video": known.HUNYUAN,
    "cosmos": COSMOS | {"pos_emb_cls": "rope3d", "block_config": "FA-CA-MLP", "block_x_format": "THWBD"},
    "cosmos_predict2": PREDICT,
    "anima": PREDICT | {"in_channels": 16},
    "lumina2": known.LUMINA,
    "ZImage": host.Z_IMAGE,
    "zimage_pixel": host.Z_IMAGE,
    "AuraFlow": {"n_double_layers": 4, "n_layers": 8},
    "pixart_alpha": known.PIXART | {"depth": 2},
    "pixart_sigma": known.PIXART | {"depth": 2},
    "krea2": {"layers": 2},
    "hidream": known.HIDREAM,
    "seedvr2": SEEDVR,
    "trellis2": {"resolution": 32},
}


class _Absent(dict):
    """A checkpoint of which nothing is asked but that it is there."""

    def __missing__(self, key):
        return torch.zeros(768, 772)


def build(kind):
    """The host's model of a class, without values."""
    picture = kind.unet_config.get("image_model")
    told = SETTINGS.get(kind.__name__, SETTINGS.get(picture, {}))
    config = kind(dict(told) | kind.unet_config | {"dtype": torch.float16})
    return config.get_model(_Absent(), "", device=torch.device("meta"))


def main():
    found = {}
    torch.nn.Module.load_state_dict = lambda self, *args, **kwargs: None  # small conditioners beside the network
    torch.Tensor.item = _item(torch.Tensor.item)
    for kind in comfy.supported_models.models:
        try:
            model = build(kind)
            keys = host.plain(comfy.lora.model_lora_keys_unet(model, {}))
            found[kind.__name__] = {"weights": host.shapes(model.state_dict()), "aliases": keys}
        except Exception as problem:
            found[kind.__name__] = {"error": f"{type(problem).__name__}: {problem}"}
    return found


def _item(real):
    """A value of a tensor without values, which some networks ask for their counts: 1."""
    return lambda tensor: 1 if tensor.is_meta else real(tensor)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr), torch.inference_mode():
        result = main()
    json.dump(result, sys.stdout)
