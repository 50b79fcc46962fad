"""diffusers' own loaders, and PEFT alone, as judges: what each weight's update is after they have read a file.

Models are built without values from their published configurations; the update that each adapter layer holds after
loading is applied to a few random vectors.
"""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.loaders import lora_pipeline as loaders
from lora_graft.names import Names, module_of
from lora_graft.names.alike import flat
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Tensors = dict[str, Tensor]

_XL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SD3 = {
    "sample_size": 128,
    "in_channels": 16,
    "num_layers": 24,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_KLEIN = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
_HIDREAM = {
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 16,
    "num_single_layers": 32,
    "num_attention_heads": 20,
    "attention_head_dim": 128,
    "caption_channels": [4096, 4096],
    "text_emb_dim": 2048,
    "llama_layers": list(range(48)),
    "axes_dims_rope": (64, 32, 32),
}

# family -> (diffusers' class of loader, class of model, its configuration)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SD 1.5": ("StableDiffusion", "UNet2DConditionModel", {"cross_attention_dim": 768}),
    "SDXL": ("StableDiffusionXL", "UNet2DConditionModel", _XL),
    "SD3": ("SD3", "SD3Transformer2DModel", _SD3),
    "SD3.5 medium": (
        "SD3",
        "SD3Transformer2DModel",
        _SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
    ),
    "Flux": ("Flux", "FluxTransformer2DModel", {"guidance_embeds": True}),
    "Flux.2": ("Flux2", "Flux2Transformer2DModel", _KLEIN),
    "Chroma": ("Flux", "ChromaTransformer2DModel", {}),
    "HunyuanVideo": ("HunyuanVideo", "HunyuanVideoTransformer3DModel", {}),
    "Qwen-Image": ("QwenImage", "QwenImageTransformer2DModel", {}),
    "Wan": ("Wan", "WanTransformer3DModel", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "LTX-Video": ("LTXVideo", "LTXVideoTransformer3DModel", {}),
    "Mochi": ("Mochi1", "MochiTransformer3DModel", {}),
    "Z-Image": ("ZImage", "ZImageTransformer2DModel", {}),
    "Lumina 2": ("Lumina2", "Lumina2Transformer2DModel", {}),
    "HiDream": ("HiDreamImage", "HiDreamImageTransformer2DModel", _HIDREAM),
    "AuraFlow": ("AuraFlow", "AuraFlowTransformer2DModel", {}),
    "CogVideoX": ("CogVideoX", "CogVideoXTransformer3DModel", {"num_attention_heads": 48, "num_layers": 42}),
    "Sana": ("Sana", "SanaTransformer2DModel", {}),
}
# family -> (attribute's prefix, class, width, layers, heads) of its text encoders
_TEXT = {
    "SD 1.5": [("text_encoder", CLIPTextModel, 768, 12, 12)],
    "SDXL": [
        ("text_encoder", CLIPTextModel, 768, 12, 12),
        ("text_encoder_2", CLIPTextModelWithProjection, 1280, 32, 20),
    ],
}


def model(family: str) -> torch.nn.Module:
    """The family's denoiser without values."""
    _, name, config = FAMILIES[family]
    with init_empty_weights():
        network = getattr(diffusers, name)(**config)
    return _without_memory(network)


def _without_memory(network: torch.nn.Module) -> torch.nn.Module:
    """The model on the CPU with every weight one shared zero: PEFT puts its layers where the weights are."""
    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            shared = torch.zeros((), dtype=torch.float32).expand(value.shape)
            setattr(module, name, torch.nn.Parameter(shared, requires_grad=False))
    return network


def encoders(family: str) -> dict[str, torch.nn.Module]:
    """The family's text encoders without values."""
    found = {}
    for prefix, kind, width, layers, heads in _TEXT.get(family, ()):
        config = CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads
        )
        with init_empty_weights():
            encoder = kind(config)
        found[prefix] = _without_memory(encoder)
    return found


def of_diffusers(family: str, tensors: Tensors, names: Names | None) -> tuple[dict[str, Tensor], list[str]]:
    """Effects per weight after the pipeline's loader has read a file, and what it warned of."""
    loader = getattr(loaders, FAMILIES[family][0] + "LoraLoaderMixin")
    network, prefix = model(family), "unet" if "UNet" in FAMILIES[family][1] else "transformer"
    extra = {"unet_config": network.config} if prefix == "unet" else {"return_alphas": True}
    effects: dict[str, Tensor] = {}
    with _Warnings() as log:
        found = loader.lora_state_dict(dict(tensors), **extra)
        state, alphas = found if isinstance(found, tuple) else (found, None)
        if any(key.startswith(prefix + ".") for key in state):
            network.load_lora_adapter(state, prefix=prefix, network_alphas=alphas or None, low_cpu_mem_usage=True)
            _add(effects, network, prefix + ".", names)
        for name, encoder in encoders(family).items():
            if any(key.startswith(name + ".") for key in state):
                loader.load_lora_into_text_encoder(
                    state, alphas, encoder, prefix=name, lora_scale=1.0, low_cpu_mem_usage=True
                )
                _add(effects, encoder, name + ".", names)
    return effects, log.lines


def of_peft(family: str, tensors: Tensors, names: Names | None) -> tuple[dict[str, Tensor], list[str]]:
    """Effects per weight after PEFT itself has read a file in its own layout (``base_model.model.``)."""
    state = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    ranks = {k.removesuffix(".lora_A.weight"): t.shape[0] for k, t in state.items() if k.endswith(".lora_A.weight")}
    effects: dict[str, Tensor] = {}
    unet = "UNet" in FAMILIES[family][1]
    for prefix, network in {"": model(family), **encoders(family)}.items():
        dot = prefix + "." if prefix else ""
        if prefix and not hasattr(network, "text_model"):  # as transformers 5 builds it
            dot += "text_model."
        mine = {k[len(dot) :]: r for k, r in ranks.items() if k.startswith(dot or tuple(ranks))}
        mine = {k: r for k, r in mine.items() if prefix or not k.startswith("text_")}
        if not mine:
            continue
        config = LoraConfig(
            r=1,
            lora_alpha=1,
            lora_bias=any(k.startswith(dot) and k.endswith(".lora_B.bias") for k in state),
            target_modules="|".join(re.escape(k) for k in mine),  # matched in full
            rank_pattern={f"^{re.escape(k)}$": r for k, r in mine.items()},
            alpha_pattern={f"^{re.escape(k)}$": r for k, r in mine.items()},
        )
        inject_adapter_in_model(config, network, low_cpu_mem_usage=True)
        set_peft_model_state_dict(
            network, {k[len(dot) :]: t for k, t in state.items() if k.startswith(dot)}, low_cpu_mem_usage=True
        )
        _add(effects, network, f"{prefix}." if prefix else "unet." if unet else "transformer.", names)
    return effects, []


def _add(found: dict[str, Tensor], network: torch.nn.Module, prefix: str, names: Names | None) -> None:
    """The effects of every module that has got an adapter: its loaded values, times the scale that it will use."""
    for path, layer in network.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        (adapter,) = layer.active_adapters
        if hasattr(layer, "lora_A"):
            down, up = (getattr(layer, f"lora_{side}")[adapter].weight.detach().flatten(1).double() for side in "AB")
            effect = layer.scaling[adapter] * (up @ (down @ vectors(down.shape[1])))
            bias = layer.lora_B[adapter].bias
            if bias is not None:
                place(found, prefix + path, layer.scaling[adapter] * bias.detach().double(), names, ".bias")
        else:
            change = layer.get_delta_weight(adapter).detach().flatten(1).double()
            effect = change @ vectors(change.shape[1])
        place(found, prefix + path, effect, names)


def vectors(length: int) -> Tensor:
    """The random vectors of this length, (length, 4), as coverage_comfyui.py makes them."""
    return torch.randn(length, 4, generator=torch.Generator().manual_seed(length)).double()


def place(found: dict[str, Tensor], key: str, effect: Tensor, names: Names | None, end: str = "") -> None:
    """Adds a module's effect to its weight's, in its rows; under the module's own name where it has no other."""
    weight_slice = names.resolve(key) if names else None
    if weight_slice is None:
        name, start, height = flat(key) + end, 0, len(effect)
    else:
        name = module_of(weight_slice.name) + end if end else weight_slice.name
        height = names.shapes[weight_slice.name][0]
        start = weight_slice.rows[0] if weight_slice.rows else 0
        effect = effect.roll(len(effect) // 2, 0) if weight_slice.swap else effect
    found.setdefault(name, torch.zeros(height, *effect.shape[1:]).double())[start : start + len(effect)] += effect


class _Warnings(logging.Handler):
    """What diffusers says while it loads."""

    def __enter__(self):
        self.lines: list[str] = []
        self.quiet = warnings.catch_warnings()
        self.quiet.__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("diffusers").addHandler(self)
        return self

    def __exit__(self, *problem):
        logging.getLogger("diffusers").removeHandler(self)
        self.quiet.__exit__(*problem)

    def emit(self, record):
        self.lines.append(record.getMessage())
