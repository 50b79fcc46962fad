"""Tiny checkpoints with the real structure of SD 1.5, SDXL (Segmind Vega), SD3 and Flux, and LoRAs for them.

Run by the host's own interpreter, so that its model classes give the keys:

    python checkpoints.py COMFYUI_FOLDER MODELS_FOLDER

Each architecture has a base and a fine-tuned variant (the base plus noise of a tenth of its size), random weights
from fixed seeds in fp16, and a LoRA in the kohya layout, rank 4, alpha 2. SD 1.5 also has two complete CLIP-L
text encoders and LoRA modules for them. The LoRAs are ordinary: their factors are random.
"""

from __future__ import annotations

import sys
from pathlib import Path

RANK, ALPHA, DRIFT, SIZE = 4, 2.0, 0.1, 0.5
UNET = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=320,
    use_spatial_transformer=True,
    legacy=False,
    use_temporal_attention=False,
    use_temporal_resblock=False,
)
CONFIGS = {
    "sd15": dict(
        UNET,
        num_res_blocks=[1, 1],
        channel_mult=[1, 1],
        transformer_depth=[1, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 0, 0],
        context_dim=768,
        num_heads=8,
        use_linear_in_transformer=False,
    ),
    "vega": dict(
        UNET,
        num_res_blocks=[2, 2, 2],
        channel_mult=[1, 1, 1],
        transformer_depth=[0, 0, 1, 1, 2, 2],
        transformer_depth_middle=-1,
        transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2],
        context_dim=2048,
        num_head_channels=64,
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=2816,
    ),
    "sd3": dict(
        input_size=None,
        patch_size=2,
        in_channels=16,
        depth=2,
        adm_in_channels=2048,
        pos_embed_max_size=16,
        num_patches=256,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
    ),
    "flux": dict(
        in_channels=16,
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=4096,
        hidden_size=256,
        mlp_ratio=4.0,
        num_heads=2,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,
        txt_ids_dims=[],
    ),
}
TRAINED = (
    "to_q.",
    "to_k.",
    "to_v.",
    "to_out.0.",
    "proj_in.",
    "ff.net.",
    ".attn.qkv.",
    ".attn.proj.",
    ".mlp.",
    "_attn.qkv.",
    "_attn.proj.",
    "_mlp.",
    "linear1.",
    "linear2.",
)


def main(host: Path, models: Path) -> None:
    sys.path.insert(0, str(host))
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    import comfy.ops
    import torch
    from comfy.ldm.flux.model import Flux
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    classes = {"sd15": UNetModel, "vega": UNetModel, "sd3": MMDiT, "flux": Flux}
    for number, (name, config) in enumerate(CONFIGS.items()):
        with torch.device("meta"):
            model = classes[name](**config, dtype=torch.float16, operations=comfy.ops.disable_weight_init)
        shapes = {_published(k): tuple(v.shape) for k, v in model.state_dict().items()}
        base = random_weights(shapes, seed=100 + number)
        save_file(base, models / "diffusion_models" / f"{name}_a.safetensors")
        save_file(drifted(base, seed=200 + number), models / "diffusion_models" / f"{name}_b.safetensors")
        keys = [k for k in shapes if k.endswith(".weight") and len(shapes[k]) > 1 and any(t in k for t in TRAINED)]
        if name == "sd15":  # a convolution and a time projection as LoCon trainers add them
            keys += ["input_blocks.1.0.in_layers.2.weight", "input_blocks.1.0.emb_layers.1.weight"]
        names = _kohya(name, keys, config)
        lora = random_lora({names[k]: base[k] for k in keys}, seed=300 + number)
        if name == "sd15":
            lora |= clips(models, save_file)
        save_file(
            lora,
            models / "loras" / f"{name}.safetensors",
            {"ss_network_module": "networks.lora", "ss_tag_frequency": '{"10_box": {"box": 3}}'},
        )
    from comfy.taesd.taesd import Decoder, Encoder

    parts = {"taesd_encoder.": Encoder(latent_channels=16), "taesd_decoder.": Decoder(latent_channels=16)}
    shapes = {p + k: tuple(v.shape) for p, m in parts.items() for k, v in m.state_dict().items()}
    save_file(random_weights(shapes, seed=400), models / "vae" / "taesd16.safetensors")


def clips(models: Path, save_file) -> dict:
    """Two CLIP-L text encoders on disk; returns the LoRA's modules for the first two layers of the first."""
    shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, 768),
        "text_model.embeddings.position_embedding.weight": (77, 768),
        "text_model.final_layer_norm.weight": (768,),
        "text_model.final_layer_norm.bias": (768,),
    }
    for layer in range(12):
        at = f"text_model.encoder.layers.{layer}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= {f"{at}.self_attn.{part}.weight": (768, 768), f"{at}.self_attn.{part}.bias": (768,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}.{norm}.weight": (768,), f"{at}.{norm}.bias": (768,)}
        shapes |= {f"{at}.mlp.fc1.weight": (3072, 768), f"{at}.mlp.fc1.bias": (3072,)}
        shapes |= {f"{at}.mlp.fc2.weight": (768, 3072), f"{at}.mlp.fc2.bias": (768,)}
    base = random_weights(shapes, seed=500)
    save_file(base, models / "text_encoders" / "clip_l_a.safetensors")
    save_file(drifted(base, seed=501), models / "text_encoders" / "clip_l_b.safetensors")
    keys = [k for k in shapes if any(f".layers.{n}." in k for n in (0, 1)) and ("_proj.weight" in k or ".fc" in k)]
    keys = [k for k in keys if k.endswith(".weight")]
    return random_lora({"lora_te_" + k.removesuffix(".weight").replace(".", "_"): base[k] for k in keys}, seed=502)


def random_weights(shapes: dict, seed: int) -> dict:
    """fp16 tensors: norms near 1, biases near 0, matrices of spectral size about 1 with a decaying spectrum."""
    import torch

    dice = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        small = 0.02 * torch.randn(shape, generator=dice)
        if len(shape) < 2:
            weights[name] = small + 1 if name.endswith((".weight", ".scale")) else small
        elif "embedding" in name or "pos_embed" in name:
            weights[name] = small
        else:
            fan_in = small[0].numel()
            falling = torch.linspace(1.6, 0.4, shape[0]).view(-1, *[1] * (len(shape) - 1))
            weights[name] = small / 0.02 / fan_in**0.5 * falling
    return {name: weight.half().contiguous() for name, weight in weights.items()}


def drifted(weights: dict, seed: int) -> dict:
    """The weights plus noise of DRIFT times the size of each."""
    import torch

    dice = torch.Generator().manual_seed(seed)
    return {
        n: (w.float() + DRIFT * w.float().std(correction=0) * torch.randn(w.shape, generator=dice)).half()
        for n, w in weights.items()
    }


def random_lora(weights: dict, seed: int) -> dict:
    """kohya's tensors for {module key: base weight}; ‖ΔW‖ is SIZE times the weight's own."""
    import torch

    dice, tensors = torch.Generator().manual_seed(seed), {}
    for key, weight in weights.items():
        down = torch.randn((RANK, *weight.shape[1:]), generator=dice)
        up = torch.randn((weight.shape[0], RANK, *[1] * (weight.ndim - 2)), generator=dice)
        size = torch.linalg.norm(up.flatten(1) @ down.flatten(1)) * ALPHA / RANK
        factor = (SIZE * weight.float().norm() / size) ** 0.5
        tensors |= {f"{key}.lora_up.weight": (up * factor).half(), f"{key}.lora_down.weight": (down * factor).half()}
        tensors[f"{key}.alpha"] = torch.tensor(ALPHA)
    return tensors


def _published(key: str) -> str:
    """Flux files call the weight of a query or key norm its scale."""
    return key.replace("_norm.weight", "_norm.scale")


def _kohya(name: str, keys: list[str], config: dict) -> dict[str, str]:
    """Weight name → kohya's module key: diffusers names for SD 1.5, the model's own for the others."""
    own = {k: k for k in keys}
    if name == "sd15":
        import comfy.utils

        own |= {v: k for k, v in comfy.utils.unet_to_diffusers(config).items() if v in own}
    return {k: "lora_unet_" + v.removesuffix(".weight").replace(".", "_") for k, v in own.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
