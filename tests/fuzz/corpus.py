"""One small good file of every format the product reads; what the fuzzer breaks. Nothing is stored."""

from __future__ import annotations

import json
from functools import cache

import torch
from containers import File

M, N, R = 24, 20, 4
BLOCKS = ("down_blocks_0_attentions_0", "mid_block_attentions_0", "up_blocks_0_attentions_0")
ROLES = ("attn1_to_q", "attn1_to_v", "ff_net_2")
KEYS = tuple(f"lora_unet_{block}_transformer_blocks_0_{role}" for block in BLOCKS[:2] for role in ROLES[:2])
WIDTH = 24  # of the bases


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 0.3


METADATA = {
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "model.safetensors",
    "ss_tag_frequency": json.dumps({"10_frame": {"red frame": 10, "digit": 4}, "5_other": {"cat": 3}}),
    "ss_dataset_dirs": json.dumps({"10_frame": {"n_repeats": 10, "img_count": 10}}),
    "modelspec.trigger_phrase": "red frame, blue",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "sshs_model_hash": "ab" * 32,
    "lora_graft.history": json.dumps([{"job": "transfer", "method": "copy"}]),
    "lora_graft.job": "transfer",
    "lora_graft.method": "copy",
}
PEFT = {
    "peft_type": "LORA", "r": R, "lora_alpha": 8, "use_rslora": False, "target_modules": ["to_q", "to_v"],
    "alpha_pattern": {"attn1.to_q": 4}, "rank_pattern": {}, "base_model_name_or_path": "a/b",
}  # fmt: skip


@cache
def adapters() -> dict[str, File]:
    """By format: kohya, PEFT, diffusers, Tucker, LoHa, LoKr, DoRA, OFT, IA3, GLoRA, whole differences, numbered, …"""
    alpha = torch.tensor(2.0)
    kernel = (3, 3)
    forms = {
        "kohya": {".lora_up.weight": draw(M, R), ".lora_down.weight": draw(R, N), ".alpha": alpha},
        "peft": {".lora_B.weight": draw(M, R), ".lora_A.weight": draw(R, N)},
        "old": {"_lora.up.weight": draw(M, R), "_lora.down.weight": draw(R, N)},
        "embedding": {".lora_embedding_B": draw(R, M), ".lora_embedding_A": draw(N, R)},
        "tucker": {
            ".lora_up.weight": draw(M, R, 1, 1), ".lora_mid.weight": draw(R, R, *kernel),
            ".lora_down.weight": draw(R, N, 1, 1), ".alpha": alpha,
        },
        "reshape": {
            ".lora_up.weight": draw(M, R), ".lora_down.weight": draw(R, N), ".reshape_weight": torch.tensor([M, N]),
            ".diff_b": draw(M),
        },
        "loha": {
            ".hada_w1_a": draw(M, R), ".hada_w1_b": draw(R, N), ".hada_w2_a": draw(M, R), ".hada_w2_b": draw(R, N),
            ".alpha": alpha,
        },
        "loha tucker": {
            ".hada_t1": draw(R, R, *kernel), ".hada_w1_a": draw(R, M), ".hada_w1_b": draw(R, N),
            ".hada_t2": draw(R, R, *kernel), ".hada_w2_a": draw(R, M), ".hada_w2_b": draw(R, N),
        },
        "lokr": {".lokr_w1": draw(4, 5), ".lokr_w2": draw(6, 4), ".alpha": alpha},
        "lokr factored": {
            ".lokr_w1_a": draw(4, 2), ".lokr_w1_b": draw(2, 5), ".lokr_w2_a": draw(6, 3), ".lokr_w2_b": draw(3, 4),
        },
        "lokr tucker": {
            ".lokr_w1": draw(4, 5), ".lokr_t2": draw(3, 3, *kernel), ".lokr_w2_a": draw(3, 6), ".lokr_w2_b": draw(3, 4),
        },
        "dora": {
            ".lora_up.weight": draw(M, R), ".lora_down.weight": draw(R, N), ".alpha": alpha,
            ".dora_scale": draw(M, 1).abs() + 1,
        },
        "oft": {".oft_blocks": draw(3, 8, 8), ".alpha": torch.tensor(0.5)},
        "boft": {".oft_blocks": draw(2, 8, 4, 4), ".rescale": draw(32, 1) + 1},
        "glora": {
            ".a1.weight": draw(N, R), ".a2.weight": draw(R, N), ".b1.weight": draw(M, R), ".b2.weight": draw(R, N),
            ".alpha": alpha,
        },
        "ia3": {".weight": draw(M), ".on_input": torch.tensor(0)},
        "ia3 peft": {".ia3_l": 1 + draw(M, 1)},
        "diff": {".diff": draw(M, N), ".diff_b": draw(M)},
        "set": {".set_weight": draw(M, N)},
        "norm": {".w_norm": draw(M), ".b_norm": draw(M)},
    }  # fmt: skip
    found = {
        name: File({key + suffix: t for key in KEYS[:2] for suffix, t in form.items()}, METADATA)
        for name, form in forms.items()
    }
    dots = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    flux = "double_blocks.0.processor."
    found |= {
        "diffusers": File(
            {f"{dots}.lora_A.weight": draw(R, N), f"{dots}.lora_B.weight": draw(M, R)},
            {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in PEFT.items()})},
        ),
        "flux processors": File(
            {
                f"{flux}qkv_lora1.down.weight": draw(R, N),
                f"{flux}qkv_lora1.up.weight": draw(3 * M, R),
                f"{flux}proj_lora2.down.weight": draw(R, N),
                f"{flux}proj_lora2.up.weight": draw(M, R),
            }  # fmt: skip
        ),
        "flux control": File(
            {
                "img_in.lora_A.weight": draw(R, 128),
                "img_in.lora_B.weight": draw(M, R),
                "img_in.lora_B.bias": draw(M),
                "single_blocks.0.norm.key_norm.scale": draw(8),
                "single_blocks.0.linear1.lora_A.weight": draw(R, N),
                "single_blocks.0.linear1.lora_B.weight": draw(M, R),
            }  # fmt: skip
        ),
        "numbered": File(
            {
                f"text_encoder:{i}:{half}": draw(*shape)
                for i in range(4)
                for half, shape in (("up", (8, 2)), ("down", (2, 8)))
            },
            {"text_encoder": json.dumps(["CLIPAttention"])},
        ),
        "bundle": File(
            {**found["kohya"].tensors, "bundle_emb.word.string_to_param.*": draw(2, 8), "<s1>": draw(8)},
            {"<s1>": "<embed>"},
        ),
        "half": File({k: t.half() for k, t in found["kohya"].tensors.items()}, METADATA),
    }
    return found


def fitting(seed: int = 0) -> File:
    """A kohya adapter whose modules belong to the bases below."""
    tensors = {}
    for block in BLOCKS:
        for role in ROLES:
            key = f"lora_unet_{block}_transformer_blocks_0_{role}"
            tensors[f"{key}.lora_up.weight"] = draw(WIDTH, R, seed=seed)
            tensors[f"{key}.lora_down.weight"] = draw(R, WIDTH, seed=seed + 1)
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
    return File(tensors, METADATA)


def checkpoint(seed: int = 0) -> File:
    """A checkpoint in the SD 1.5 naming, small."""
    tensors = {}
    for block in ("input_blocks.1", "middle_block", "output_blocks.0"):
        tensors[f"model.diffusion_model.{block}.0.in_layers.2.weight"] = draw(WIDTH, WIDTH, 3, 3, seed=seed)
        head = f"model.diffusion_model.{block}.1."
        for role in ("attn1.to_q", "attn1.to_v", "ff.net.2"):
            tensors[f"{head}transformer_blocks.0.{role}.weight"] = draw(WIDTH, WIDTH, seed=seed)
        tensors[f"{head}transformer_blocks.0.attn2.to_k.weight"] = draw(WIDTH, 768, seed=seed)
        tensors[f"{head}proj_in.weight"] = draw(WIDTH, WIDTH, 1, 1, seed=seed)
        tensors[f"{head}proj_in.bias"] = draw(WIDTH, seed=seed)
    layer = "cond_stage_model.transformer.text_model.encoder.layers.0."
    tensors[layer + "self_attn.q_proj.weight"] = draw(64, 64, seed=seed)
    return File(tensors, {"modelspec.title": "base"})


def scaled() -> File:
    """A denoiser alone in scaled fp8."""
    head = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    return File(
        {
            f"{head}.weight": draw(WIDTH, WIDTH).to(torch.float8_e4m3fn),
            f"{head}.scale_weight": torch.tensor([2.0]),
            head.replace("to_q", "to_v") + ".weight": draw(WIDTH, WIDTH).half(),
        }
    )


def diffusers() -> File:
    """A UNet as diffusers stores it."""
    head = "down_blocks.0.attentions.0."
    tensors = {f"{head}transformer_blocks.0.{role}.weight": draw(WIDTH, WIDTH) for role in ("attn1.to_q", "attn1.to_v")}
    tensors |= {f"{head}proj_in.weight": draw(WIDTH, WIDTH, 1, 1), "conv_in.weight": draw(WIDTH, 4, 3, 3)}
    return File(tensors)


def flux() -> File:
    """A piece of Flux as diffusers stores it: fused weights in parts."""
    head = "transformer_blocks.0.attn."
    names = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out")
    tensors = {f"{head}{name}.weight": draw(WIDTH, WIDTH) for name in names}
    single = "single_transformer_blocks.0."
    tensors |= {f"{single}attn.{name}.weight": draw(WIDTH, WIDTH) for name in names[:3]}
    tensors |= {f"{single}proj_mlp.weight": draw(4 * WIDTH, WIDTH), f"{single}proj_out.weight": draw(WIDTH, 5 * WIDTH)}
    return File(tensors)


def single_stream() -> File:
    """A piece of Z-Image: one fused weight for each attention."""
    head = "model.diffusion_model.layers.0."
    return File(
        {
            f"{head}attention.qkv.weight": draw(3 * WIDTH, WIDTH),
            f"{head}attention.out.weight": draw(WIDTH, WIDTH),
            f"{head}feed_forward.w1.weight": draw(2 * WIDTH, WIDTH),
            "model.diffusion_model.cap_embedder.1.weight": draw(WIDTH, 32),
        }
    )


def two_towers() -> File:
    """A checkpoint with OpenCLIP's text tower, whose fused projection is taken apart."""
    head = "conditioner.embedders.1.model."
    block = f"{head}transformer.resblocks.0."
    tensors = {
        f"{block}attn.in_proj_weight": draw(3 * WIDTH, WIDTH), f"{block}attn.in_proj_bias": draw(3 * WIDTH),
        f"{block}attn.out_proj.weight": draw(WIDTH, WIDTH), f"{block}mlp.c_fc.weight": draw(2 * WIDTH, WIDTH),
        f"{head}text_projection": draw(WIDTH, WIDTH), f"{head}token_embedding.weight": draw(8, WIDTH),
    }  # fmt: skip
    return File(checkpoint().tensors | tensors)


def dataset() -> File:
    """What Synthetic Dataset draws and saves."""
    n = 3
    return File(
        {
            "taught": draw(n, 4, 2, 2), "plain": draw(n, 4, 2, 2, seed=1), "target": draw(2, 4, 2, 2, seed=2),
            "acts": draw(n).abs(), "kept": torch.tensor([True, False, True]), "likeness": draw(n).abs(),
        },
        {"lora_graft.dataset": json.dumps({"prompts": ["a", "b", "c"], "info": {"seed": 1, "spaces": ["sd1"]}})},
    )  # fmt: skip


IDENTITY = "0123456789abcdef" * 4


def run_state() -> File:
    """A checkpoint of a distillation."""
    groups = ("params:a.up", "params:a.down", "moments:0", "best:a.up", "best:a.down")
    header = {"identity": IDENTITY, "step": 5, "losses": [1.0, 0.5], "checks": [[5, 0.5]], "reference": 1.0}
    return File({name: draw(4, 2) for name in groups}, {"lora_graft.checkpoint": json.dumps(header)})


def subspace(key: str) -> File:
    """An entry of the cache of subspaces."""
    left, _ = torch.linalg.qr(draw(8, 3))
    right, _ = torch.linalg.qr(draw(6, 3))
    energy = torch.tensor(4.0, dtype=torch.float64)
    return File({"left": left, "values": draw(3).abs(), "right": right, "energy": energy}, {"key": key})


INDEX = {
    "metadata": {"total_size": 1000},
    "weight_map": {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": "m-00001-of-00002.safetensors",
        "conv_in.weight": "m-00002-of-00002.safetensors",
    },
}
TEMPLATES = (
    "{trigger}, {3::{tags}|{seed}}",
    "{3::red|green} box{|, on a table}",
    "{tag} {tags:3}\n5::{seed}\n\\{ \\} \\| \\: \\\\",
    "{a {red|green} box|a bag}",
)
