"""LoRA files that LyCORIS, PEFT and diffusers write themselves, and what these make of a file that they load.

A maker puts an adapter of random values on a small model, saves it as the project does and merges it; a loader reads a
file onto the same model and merges it. Both tell the change of every parameter, in float64.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lycoris
import peft
import torch
from coverage_small import SMALL, network
from diffusers.loaders import lora_pipeline
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.wrapper import LycorisNetwork
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

Changes = dict[str, Tensor]  # name of a parameter -> change
Maker = Callable[[str, Path], tuple[Path, Changes]]  # (family, folder) -> (file, changes)

logging.getLogger("LyCORIS").setLevel(logging.ERROR)
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def _changes(before: torch.nn.Module, after: torch.nn.Module) -> Changes:
    old = {name: value.detach().double() for name, value in before.named_parameters()}
    new = {name.replace(".base_layer", ""): value.detach().double() for name, value in after.named_parameters()}
    return {name: new[name] - value for name, value in old.items() if not torch.equal(new[name], value)}


def _randomise(parameters, size: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for name, value in parameters:
            noise = torch.randn(value.shape, generator=generator)
            if "dora_scale" in name or "magnitude" in name:
                value.mul_(1 + 0.2 * noise)
            else:
                value.copy_(size * noise)


# LyCORIS


def of_lycoris(family: str, folder: Path, *, prefix: str = "lora_unet", size: float = 0.3, **settings):
    """A LyCORIS network on every layer of the model, saved by itself and merged by itself."""
    model = copy.deepcopy(network(family))
    LycorisNetwork.apply_preset({"lora_prefix": prefix})
    made = lycoris.create_lycoris(model, 1.0, **({"linear_dim": 4, "linear_alpha": 2.0} | settings))
    LycorisNetwork.apply_preset({"lora_prefix": "lycoris"})
    made.apply_to()
    _randomise(made.named_parameters(), size, torch.Generator().manual_seed(len(made.loras)))
    file = folder / "lycoris.safetensors"
    made.save_weights(str(file), torch.float32, {})
    made.restore()
    return file, _merged(family, model, made)


def _merged(family: str, model: torch.nn.Module, made: LycorisNetwork) -> Changes:
    exact = not any(hasattr(lora, "oft_blocks") for lora in made.loras)  # LyCORIS rotates in float32 alone
    for lora in made.loras:
        if exact:
            lora.double()
            lora.org_module[0].double()
        if isinstance(lora, (LohaModule, LokrModule)):
            lora.get_diff_weight = partial(_forward_weight, lora)
        lora.merge_to(1.0)
    return _changes(network(family), model)


def _forward_weight(lora, multiplier=1, shape=None, device=None):
    """ΔW as LyCORIS' forward pass has it: its merge (4.1.3) multiplies LoHa and LoKr by alpha/rank a second time."""
    return lora.get_weight(lora.shape) * lora.scalar * multiplier, None


def in_lycoris(family: str, file: Path, *, prefix: str = "lora_unet") -> Changes:
    """What LyCORIS makes of a file; nothing where no key is for one of the model's layers."""
    model = copy.deepcopy(network(family))
    LycorisNetwork.apply_preset({"lora_prefix": prefix})
    try:
        made, _ = lycoris.create_lycoris_from_weights(1.0, "", model, weights_sd=load_file(file))
    finally:
        LycorisNetwork.apply_preset({"lora_prefix": "lycoris"})
    return _merged(family, model, made)


# PEFT and diffusers


def _adapted(family: str, config: peft.PeftConfig) -> torch.nn.Module:
    model = copy.deepcopy(network(family))
    peft.inject_adapter_in_model(config, model)
    chosen = [(n, p) for n, p in model.named_parameters() if ".base_layer." not in n and _is_adapters(n)]
    _randomise(chosen, 0.3, torch.Generator().manual_seed(len(chosen)))
    return model


def _is_adapters(name: str) -> bool:
    return any(word in name for word in (".lora_", ".hada_", ".lokr_"))


def _layers_merged(family: str, model: torch.nn.Module) -> Changes:
    model.double()
    for layer in [m for m in model.modules() if isinstance(m, BaseTunerLayer)]:
        layer.merge(adapter_names=layer.active_adapters)
    kept = [(n, p) for n, p in model.named_parameters() if not _is_adapters(n)]
    holder = torch.nn.Module()
    holder.named_parameters = lambda: iter(kept)
    return _changes(network(family), holder)


def of_peft(family: str, folder: Path, *, kind: str = "LoraConfig", **settings):
    """An adapter of PEFT's, saved as ``PeftModel.save_pretrained`` does: a file and its configuration."""
    config = getattr(peft, kind)(**settings)
    model = _adapted(family, config)
    state = {f"base_model.model.{k}": v.contiguous() for k, v in get_peft_model_state_dict(model).items()}
    save_file(state, folder / "adapter_model.safetensors")
    config.save_pretrained(str(folder))
    return folder / "adapter_model.safetensors", _layers_merged(family, model)


def of_diffusers(family: str, folder: Path, *, told: bool = True, **settings):
    """A LoRA saved by the pipeline's ``save_lora_weights``; ``told``: with PEFT's configuration in the header."""
    small, config = SMALL[family], peft.LoraConfig(**settings)
    model = _adapted(family, config)
    part = small.prefix[:-1]
    loader = getattr(lora_pipeline, small.loader + "LoraLoaderMixin")
    more = {f"{part}_lora_adapter_metadata": config.to_dict()} if told else {}
    loader.save_lora_weights(folder, **{f"{part}_lora_layers": get_peft_model_state_dict(model)}, **more)
    return folder / "pytorch_lora_weights.safetensors", _layers_merged(family, model)


def in_diffusers(family: str, file: Path) -> Changes:
    """What diffusers' pipeline loader makes of a file."""
    small, model = SMALL[family], copy.deepcopy(network(family))
    loader = getattr(lora_pipeline, small.loader + "LoraLoaderMixin")
    extra = {"unet_config": model.config} if small.prefix == "unet." else {"return_alphas": True}
    if family in ("SD3", "Z-Image", "Qwen-Image"):
        extra = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = loader.lora_state_dict(
            str(file.parent), weight_name=file.name, local_files_only=True, return_lora_metadata=True, **extra
        )
        state, metadata = found[0], found[-1]
        alphas = found[1] if len(found) > 2 else None
        if any(key.startswith(small.prefix) for key in state):
            model.load_lora_adapter(state, prefix=small.prefix[:-1], network_alphas=alphas or None, metadata=metadata)
    return _layers_merged(family, model)


def in_peft(family: str, file: Path) -> Changes:
    """What PEFT makes of a file of its layout: by the configuration beside it, else by its ranks."""
    prefix = "base_model.model."
    state = {k.removeprefix(prefix): t for k, t in load_file(file).items() if k.startswith(prefix)}
    if not state:
        return {}
    model = copy.deepcopy(network(family))
    kept = (file.parent / "adapter_config.json").is_file()
    peft.inject_adapter_in_model(
        peft.PeftConfig.from_pretrained(str(file.parent)) if kept else _config_of(state), model
    )
    peft.set_peft_model_state_dict(model, state)
    return _layers_merged(family, model)


def _config_of(state: dict[str, Tensor]) -> peft.PeftConfig:
    """The configuration that a state dict of PEFT's tells by itself: every module by its whole name, with scale 1."""
    names = sorted({name.partition(".lora_")[0].partition(".hada_")[0].partition(".lokr_")[0] for name in state})
    products = any(".hada_" in name for name in state)
    lora = any(".lora_" in name for name in state)
    key = ".lora_A.weight" if lora else ".hada_w1_b" if products else ".lokr_w2_b"
    ranks = {f"^{re.escape(n)}$": len(state[n + key]) for n in names if n + key in state}
    most = 1 << 14  # of a whole second half, as PEFT decides from the rank
    patterns = {"rank_pattern": ranks, "alpha_pattern": ranks, "target_modules": "|".join(map(re.escape, names))}
    if lora:
        return peft.LoraConfig(
            r=1,
            lora_alpha=1,
            use_dora=any("magnitude" in name for name in state),
            lora_bias=any(name.endswith(".lora_B.bias") for name in state),
            **patterns,
        )
    patterns |= {"r": most, "alpha": most}
    cores = any(n.endswith((".hada_t1", ".lokr_t2")) for n in state)
    if products:
        return peft.LoHaConfig(use_effective_conv2d=cores, **patterns)
    heights = {len(t) for n, t in state.items() if n.endswith((".lokr_w1", ".lokr_w1_a"))}
    return peft.LoKrConfig(
        use_effective_conv2d=cores,
        decompose_both=any(n.endswith(".lokr_w1_a") for n in state),
        decompose_factor=max(heights) if max(heights) <= 4 else -1,
        **patterns,
    )


def _lora(**settings) -> dict:
    return {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION} | settings


_CONV = ["to_q", "to_k", "conv1", "conv2", "proj_in", "ff.net.0.proj"]
MIXED = {"r": 4, "rank_pattern": {"to_k": 2, "to_v": 3}, "alpha_pattern": {"to_k": 3, "to_q": 1}}

# kind of file -> (family, maker)
MADE: dict[str, tuple[str, Maker]] = {
    "LyCORIS LoCon, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lora")),
    "LyCORIS LoCon, another rank and alpha in convolutions, SD 1.5": (
        "SD 1.5",
        partial(of_lycoris, algo="lora", conv_dim=2, conv_alpha=1.0),
    ),
    "LyCORIS LoCon with cores, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lora", use_tucker=True)),
    "LyCORIS LoCon with a scalar, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lora", use_scalar=True)),
    "LyCORIS DoRA by outputs, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lora", dora_wd=True)),
    "LyCORIS DoRA by inputs, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lora", dora_wd=True, wd_on_output=False)),
    "LyCORIS LoHa, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="loha")),
    "LyCORIS LoHa with cores, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="loha", use_tucker=True)),
    "LyCORIS LoHa with DoRA, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="loha", dora_wd=True)),
    "LyCORIS LoKr, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lokr")),
    "LyCORIS LoKr of factor 4, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lokr", factor=4)),
    "LyCORIS LoKr, both halves factored, SD 1.5": (
        "SD 1.5",
        partial(of_lycoris, algo="lokr", decompose_both=True, linear_dim=1, conv_dim=1),
    ),
    "LyCORIS LoKr, halves whole, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lokr", full_matrix=True)),
    "LyCORIS LoKr with cores, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lokr", use_tucker=True, conv_dim=1)),
    "LyCORIS LoKr with DoRA, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lokr", dora_wd=True)),
    "LyCORIS GLoRA, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="glora")),
    "LyCORIS full, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="full", size=0.1)),
    "LyCORIS LoCon and norms, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="lora", train_norm=True)),
    "LyCORIS diag-OFT, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="diag-oft", size=0.1)),
    "LyCORIS diag-OFT rescaled, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="diag-oft", rescaled=True, size=0.1)),
    "LyCORIS BOFT, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="boft", size=0.1)),
    "LyCORIS IA3, SD 1.5": ("SD 1.5", partial(of_lycoris, algo="ia3")),
    "LyCORIS LoCon, SDXL": ("SDXL", partial(of_lycoris, algo="lora")),
    "LyCORIS LoHa, SDXL": ("SDXL", partial(of_lycoris, algo="loha")),
    "LyCORIS LoRA, Flux": ("Flux", partial(of_lycoris, algo="lora", prefix="lycoris")),
    "LyCORIS LoKr, Flux": ("Flux", partial(of_lycoris, algo="lokr", prefix="lycoris", factor=4)),
    "LyCORIS LoKr, halves whole, Flux": (
        "Flux",
        partial(of_lycoris, algo="lokr", prefix="lycoris", full_matrix=True),
    ),
    "PEFT LoRA, SD 1.5": ("SD 1.5", partial(of_peft, **_lora())),
    "PEFT LoRA with convolutions, SD 1.5": ("SD 1.5", partial(of_peft, **_lora(target_modules=_CONV))),
    "PEFT LoRA, mixed ranks and alphas, SD 1.5": ("SD 1.5", partial(of_peft, **_lora(**MIXED))),
    "PEFT rsLoRA, SD 1.5": ("SD 1.5", partial(of_peft, **_lora(use_rslora=True))),
    "PEFT DoRA, SD 1.5": ("SD 1.5", partial(of_peft, **_lora(use_dora=True))),
    "PEFT DoRA with convolutions, SD 1.5": (
        "SD 1.5",
        partial(of_peft, **_lora(use_dora=True, target_modules=_CONV)),
    ),
    "PEFT LoRA with a bias, SD 1.5": (
        "SD 1.5",
        partial(of_peft, **_lora(lora_bias=True, target_modules=["to_out.0"])),
    ),
    "PEFT LoHa, SD 1.5": ("SD 1.5", partial(of_peft, kind="LoHaConfig", r=4, alpha=8, target_modules=_CONV)),
    "PEFT LoHa with cores, SD 1.5": (
        "SD 1.5",
        partial(of_peft, kind="LoHaConfig", r=4, alpha=8, target_modules=_CONV, use_effective_conv2d=True),
    ),
    "PEFT LoKr, SD 1.5": (
        "SD 1.5",
        partial(of_peft, kind="LoKrConfig", r=2, alpha=4, target_modules=_CONV, decompose_factor=4),
    ),
    "PEFT LoKr with cores, both factored, SD 1.5": (
        "SD 1.5",
        partial(
            of_peft,
            kind="LoKrConfig",
            r=1,
            alpha=2,
            target_modules=_CONV,
            use_effective_conv2d=True,
            decompose_both=True,
        ),
    ),
    "PEFT LoRA, SDXL": ("SDXL", partial(of_peft, **_lora(**MIXED))),
    "PEFT LoRA, Flux": ("Flux", partial(of_peft, **_lora(target_modules=[*ATTENTION, "proj_mlp"]))),
    "diffusers, SD 1.5": ("SD 1.5", partial(of_diffusers, **_lora())),
    "diffusers, mixed ranks and alphas, SD 1.5": ("SD 1.5", partial(of_diffusers, **_lora(**MIXED))),
    "diffusers without metadata, mixed ranks, SD 1.5": (
        "SD 1.5",
        partial(of_diffusers, told=False, **_lora(lora_alpha=4, rank_pattern={"to_k": 2}, alpha_pattern={"to_k": 2})),
    ),
    "diffusers rsLoRA, SDXL": ("SDXL", partial(of_diffusers, **_lora(use_rslora=True))),
    "diffusers DoRA, SDXL": ("SDXL", partial(of_diffusers, **_lora(use_dora=True))),
    "diffusers, SD3": ("SD3", partial(of_diffusers, **_lora(**MIXED))),
    "diffusers DoRA, SD3": ("SD3", partial(of_diffusers, **_lora(use_dora=True))),
    "diffusers, Flux": (
        "Flux",
        partial(of_diffusers, **_lora(target_modules=[*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj"])),
    ),
    "diffusers, k alone, mixed ranks, Flux": (
        "Flux",
        partial(of_diffusers, **_lora(target_modules=["to_k", "add_k_proj"], rank_pattern={"add_k_proj": 2})),
    ),
    "diffusers DoRA, Flux": ("Flux", partial(of_diffusers, **_lora(use_dora=True))),
    "diffusers with biases, Flux": ("Flux", partial(of_diffusers, **_lora(lora_bias=True))),
    "diffusers, Z-Image": ("Z-Image", partial(of_diffusers, **_lora())),
    "diffusers, Qwen-Image": ("Qwen-Image", partial(of_diffusers, **_lora())),
}
