"""Made-up UNets with real shapes and counts, and LoRAs for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shape = tuple[int, ...]

# The matrices a LoRA changes in Flux (19 double and 38 single blocks; q, k and v apart), and how often they occur.
FLUX_SHAPES = {(3072, 3072): 19 * 8 + 38 * 3, (12288, 3072): 19 * 2 + 38, (3072, 12288): 19 * 2, (3072, 15360): 38}
QUICK_SHAPES = [(320, 320), (640, 640), (640, 1024), (1280, 320)]

# width and transformer depth of each stage with attention, context width, linear or convolutional projections.
MODELS = {
    "sd15": (
        {f"input_blocks.{i}.1": (w, 1) for i, w in ((1, 320), (2, 320), (4, 640), (5, 640), (7, 1280), (8, 1280))}
        | {"middle_block.1": (1280, 1)}
        | {f"output_blocks.{i}.1": (1280 if i < 6 else 640 if i < 9 else 320, 1) for i in range(3, 12)},
        768,
        False,
    ),
    "sdxl": (
        {f"input_blocks.{i}.1": (w, d) for i, w, d in ((4, 640, 2), (5, 640, 2), (7, 1280, 10), (8, 1280, 10))}
        | {"middle_block.1": (1280, 10)}
        | {f"output_blocks.{i}.1": (1280, 10) if i < 3 else (640, 2) for i in range(6)},
        2048,
        True,
    ),
    "quick": ({"input_blocks.4.1": (640, 1), "middle_block.1": (640, 1)}, 768, True),
}


def unet_shapes(model: str) -> dict[str, Shape]:
    """Checkpoint name -> shape of every attention, feed-forward and projection weight."""
    stages, context, linear = MODELS[model]
    shapes: dict[str, Shape] = {}
    for stage, (w, depth) in stages.items():
        outer = (w, w) if linear else (w, w, 1, 1)
        shapes[f"{stage}.proj_in.weight"] = shapes[f"{stage}.proj_out.weight"] = outer
        for i in range(depth):
            block = f"{stage}.transformer_blocks.{i}"
            for attention, inner in (("attn1", w), ("attn2", context)):
                shapes[f"{block}.{attention}.to_q.weight"] = shapes[f"{block}.{attention}.to_out.0.weight"] = (w, w)
                shapes[f"{block}.{attention}.to_k.weight"] = shapes[f"{block}.{attention}.to_v.weight"] = (w, inner)
            shapes[f"{block}.ff.net.0.proj.weight"] = (8 * w, w)
            shapes[f"{block}.ff.net.2.weight"] = (w, 4 * w)
    return shapes


def matrix(shape: Shape, seed: int = 0) -> Tensor:
    """(m, n) float32 with a spectrum like a trained weight's: σ_i ~ i^-0.7 in random directions over white noise."""
    m, n = shape[0], torch.Size(shape[1:]).numel()
    generator = torch.Generator().manual_seed(seed)
    r = min(m, n)
    scales = torch.arange(1, r + 1).float() ** -0.7
    signal = (torch.randn(m, r, generator=generator) * scales) @ torch.randn(r, n, generator=generator)
    noise = torch.randn(m, n, generator=generator)
    return (signal / signal.norm() + noise / noise.norm()) * (0.02 * (m * n / 2) ** 0.5)


def relative(weight: Tensor, seed: int, drift: float = 0.15) -> Tensor:
    """The weight after a fine-tune: half of the change of low rank, half spread over everything."""
    generator = torch.Generator().manual_seed(1000 + seed)
    m, n = weight.shape
    low = torch.randn(m, 32, generator=generator) @ torch.randn(32, n, generator=generator)
    wide = torch.randn(m, n, generator=generator)
    return weight + weight.norm() * drift * (low / low.norm() + wide / wide.norm()) / 2**0.5


def make_pair(model: str, folder: Path) -> tuple[Path, Path]:
    """Two fp16 checkpoints, source and target, written tensor by tensor.

    One matrix per shape is made; every weight is that one with its rows and columns shuffled and their signs drawn
    anew, which leaves the spectrum alone.
    """
    shapes = {f"model.diffusion_model.{name}": shape for name, shape in unet_shapes(model).items()}
    made = {shape: matrix(shape) for shape in set(shapes.values())}
    pools = [made, {shape: relative(w, seed=0) for shape, w in made.items()}]
    paths = []
    for label, pool in zip(("source", "target"), pools, strict=True):
        paths.append(folder / f"{model}-{label}.safetensors")
        with open(paths[-1], "wb") as file:
            file.write(_header(shapes))
            for seed, shape in enumerate(shapes.values()):
                generator = torch.Generator().manual_seed(seed)
                rows, columns = (torch.randperm(size, generator=generator) for size in pool[shape].shape)
                signs = torch.randint(0, 2, (len(columns),), generator=generator) * 2 - 1
                weight = (pool[shape][rows][:, columns] * signs).half()
                file.write(weight.numpy().tobytes())
    return paths[0], paths[1]


def make_lora(model: str, path: Path, seed: int, rank: int = 16) -> Path:
    """An ordinary LoRA on every weight, under the host's own names."""
    save_file(lora_tensors(unet_shapes(model), seed, rank), path)
    return path


def lora_tensors(shapes: dict[str, Shape], seed: int, rank: int = 16) -> dict[str, Tensor]:
    """The fp16 tensors of a LoRA on these weights, as a file holds them."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        key, inner = "diffusion_model." + name.removesuffix(".weight"), torch.Size(shape[1:]).numel()
        kernel = shape[2:]
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, inner, generator=generator).reshape(rank, -1, *kernel)
        tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], rank, generator=generator).reshape(
            shape[0], rank, *(1 for _ in kernel)
        )
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return {name: (0.01 * t if t.dim() else t).half() for name, t in tensors.items()}


def _header(shapes: dict[str, Shape]) -> bytes:
    """The head of a safetensors file with these fp16 tensors in this order."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
