"""A shelf of tiny files: SD 1.5-like checkpoints with really decaying spectra, and a kohya LoRA for them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

WIDTH, RANK = 48, 4
HERE, THERE = "model.diffusion_model.", "lora_unet_"
# place in the checkpoint -> place in kohya's keys
BLOCKS = {
    "input_blocks.1": "down_blocks_0_{}_0",
    "middle_block": "mid_block_{}_0",
    "output_blocks.0": "up_blocks_0_{}_0",
}
LINEAR = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "ff.net.2")
CLIP = "cond_stage_model.transformer.text_model.encoder.layers.0."


def weight(generator, *shape):
    """A weight whose singular values fall like 1/i."""
    m, n = shape[0], int(torch.tensor(shape[1:]).prod())
    u, _, v = torch.linalg.svd(torch.randn(m, n, generator=generator), full_matrices=False)
    return ((u / torch.arange(1, min(m, n) + 1)) @ v).reshape(shape)


def checkpoint(seed=0, context=768, width=WIDTH):
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in BLOCKS:
        tensors[f"{HERE}{block}.0.in_layers.2.weight"] = weight(g, width, width, 3, 3)
        tensors[f"{HERE}{block}.0.in_layers.2.bias"] = torch.zeros(width)
        tensors[f"{HERE}{block}.1.proj_in.weight"] = weight(g, width, width, 1, 1)
        for role in LINEAR:
            n = context if role == "attn2.to_k" else width
            tensors[f"{HERE}{block}.1.transformer_blocks.0.{role}.weight"] = weight(g, width, n)
    tensors[CLIP + "self_attn.q_proj.weight"] = weight(g, 64, 64)
    tensors[CLIP + "mlp.fc1.weight"] = weight(g, 128, 64)
    return tensors


def relative(tensors, amount=0.05, seed=9):
    """The same model, lightly fine-tuned."""
    g = torch.Generator().manual_seed(seed)
    return {k: t + amount * t.norm() / t.numel() ** 0.5 * torch.randn(t.shape, generator=g) for k, t in tensors.items()}


def kohya(context=768, width=WIDTH, seed=5):
    g = torch.Generator().manual_seed(seed)
    tensors = {}

    def add(key, m, n, kernel=()):
        tensors[f"{key}.lora_down.weight"] = torch.randn(RANK, n, *kernel, generator=g) / 10
        tensors[f"{key}.lora_up.weight"] = torch.randn(m, RANK, *(1 for _ in kernel), generator=g) / 10
        tensors[f"{key}.alpha"] = torch.tensor(2.0)

    for pattern in BLOCKS.values():
        add(f"{THERE}{pattern.format('resnets')}_conv1", width, width, (3, 3))
        attention = pattern.format("attentions")
        if "mid_block" in pattern:
            attention = "mid_block_attentions_0"
        add(f"{THERE}{attention}_proj_in", width, width, (1, 1))
        for role in LINEAR:
            n = context if role == "attn2.to_k" else width
            add(f"{THERE}{attention}_transformer_blocks_0_{role.replace('.', '_')}", width, n)
    add("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 64, 64)
    return tensors


METADATA = {
    "ss_base_model_version": "sd_v1",
    "ss_tag_frequency": json.dumps({"10_frame": {"red frame": 10, "digit": 4}}),
    "ss_dataset_dirs": json.dumps({"10_frame": {"n_repeats": 10, "img_count": 10}}),
    "modelspec.trigger_phrase": "red frame",
}
Q = f"{THERE}down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """A folder with a.safetensors (base), b (its relative), stranger, other (SDXL-like) and lora."""
    folder = tmp_path_factory.mktemp("shelf")
    a = checkpoint()
    save_file(a, folder / "a.safetensors")
    save_file(relative(a), folder / "b.safetensors")
    save_file(checkpoint(seed=77), folder / "stranger.safetensors")
    save_file(checkpoint(seed=3, context=2048), folder / "other.safetensors")
    save_file(kohya(), folder / "lora.safetensors", metadata=METADATA)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing the commands cache reaches the user's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_GRAFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def lora_tensors():
    return kohya()


def _script(*arguments, **options):
    command = [sys.executable, "-m", "lora_graft.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


@pytest.fixture(scope="session")
def script():
    """Runs the command line as a process of its own."""
    return _script


@pytest.fixture
def cli(monkeypatch):
    """Runs the command line inside this process."""
    from lora_graft.cli.app import app
    from typer.testing import CliRunner

    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def listing(tmp_path):
    """What stands in the output folder, hidden files included."""
    (tmp_path / "out").mkdir()
    folder: Path = tmp_path / "out"
    return lambda: sorted(p.name for p in folder.iterdir())
