"""The denoiser: Stable Diffusion 3's MMDiT in small, as one function over named tensors.

Names and mathematics are those of SD3 checkpoints (Esser et al. 2024, arXiv 2403.03206), so that hosts load the
files. Two things make it small. The text stream is fed zeros: text acts through the pooled vector alone, and since all
text tokens are then equal, one token whose attention logit is raised by log(count) stands for all of them. And the
text stream's own weights are never trained: they are made from a seed, and the files in git leave them out.

Hosts take the number of blocks from the width, one for every 64 (a head); so do the functions here that make weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HEAD = 64
DEPTH = 3
WIDTH = HEAD * DEPTH
CHANNELS = 16
PATCH = 2
POOLED = 768  # the part of the 2048 pooled numbers that CLIP-L fills
POSITIONS = 16  # the position table is POSITIONS x POSITIONS patches
TEXT_TOKENS = 77
Weights = Mapping[str, Tensor]


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, modulated by (n, width) vectors."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def _mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return _linear(w, f"{name}.fc2", F.gelu(_linear(w, f"{name}.fc1", x), approximate="tanh"))


def _embed(w: Weights, name: str, x: Tensor) -> Tensor:
    return _linear(w, f"{name}.mlp.2", F.silu(_linear(w, f"{name}.mlp.0", x)))


def _finish(w: Weights, name: str, x: Tensor, attended: Tensor, mods: tuple[Tensor, ...]) -> Tensor:
    gate_attn, shift, scale, gate_mlp = mods
    x = x + gate_attn.unsqueeze(1) * _linear(w, f"{name}.attn.proj", attended)
    return x + gate_mlp.unsqueeze(1) * _mlp(w, f"{name}.mlp", _norm(x, shift, scale))


def depth_of(weights: Weights) -> int:
    """How many joint blocks the weights have."""
    return len({name.split(".")[1] for name in weights if name.startswith("joint_blocks.")})


def width_of(weights: Weights) -> int:
    """Numbers per token."""
    return len(weights["x_embedder.proj.bias"])


def forward(w: Weights, x: Tensor, t: Tensor, pooled: Tensor, *, tokens: int = TEXT_TOKENS) -> Tensor:
    """Velocity (noise minus picture) for latents x (n, 16, h, w), times t (n,) in 0..1000, pooled text (n, 768)."""
    count, rows, columns, width = len(x), x.shape[2] // PATCH, x.shape[3] // PATCH, width_of(w)
    top, left = (POSITIONS - rows) // 2, (POSITIONS - columns) // 2
    position = (
        w["pos_embed"].view(POSITIONS, POSITIONS, -1)[top : top + rows, left : left + columns].reshape(1, -1, width)
    )
    x = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PATCH).flatten(2).mT + position

    frequency = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angle = t.float().unsqueeze(1) * frequency
    first = w["y_embedder.mlp.0.weight"]
    pooled = F.pad(pooled, (0, first.shape[1] - pooled.shape[1]))
    c = _embed(w, "t_embedder", torch.cat([angle.cos(), angle.sin()], 1)) + _embed(w, "y_embedder", pooled)
    signal = F.silu(c)

    text = w["context_embedder.bias"].expand(count, 1, -1)
    # One text token instead of `tokens` equal ones.
    bias = torch.zeros(1, 1, 1, 1 + x.shape[1])
    bias[..., 0] = math.log(tokens)
    heads, depth = width // HEAD, depth_of(w)
    for i in range(depth):
        ctx, img = f"joint_blocks.{i}.context_block", f"joint_blocks.{i}.x_block"
        last = i == depth - 1
        ctx_mods = _linear(w, f"{ctx}.adaLN_modulation.1", signal).chunk(2 if last else 6, dim=1)
        img_mods = _linear(w, f"{img}.adaLN_modulation.1", signal).chunk(6, dim=1)
        both = torch.cat(
            [
                _linear(w, f"{ctx}.attn.qkv", _norm(text, *ctx_mods[:2])),
                _linear(w, f"{img}.attn.qkv", _norm(x, *img_mods[:2])),
            ],
            1,
        )
        q, k, v = both.view(count, -1, 3, heads, HEAD).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(count, -1, width)
        if not last:
            text = _finish(w, ctx, text, out[:, :1], ctx_mods[2:])
        x = _finish(w, img, x, out[:, 1:], img_mods[2:])

    x = _norm(x, *_linear(w, "final_layer.adaLN_modulation.1", signal).chunk(2, dim=1))
    x = _linear(w, "final_layer.linear", x).view(count, rows, columns, PATCH, PATCH, CHANNELS)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(count, CHANNELS, rows * PATCH, columns * PATCH)


def position_table(width: int = WIDTH) -> Tensor:
    """Sine and cosine of both coordinates, (1, POSITIONS², width), as SD3 stores it."""
    omega = 1 / 10000 ** (np.arange(width // 4) / (width // 4))
    angle = np.arange(POSITIONS)[:, None] * omega
    line = np.concatenate([np.sin(angle), np.cos(angle)], 1)  # (POSITIONS, width/2)
    across = np.broadcast_to(line[None], (POSITIONS, POSITIONS, width // 2))
    down = np.broadcast_to(line[:, None], (POSITIONS, POSITIONS, width // 2))
    table = np.concatenate([across, down], 2).reshape(1, POSITIONS**2, width)
    return torch.tensor(table, dtype=torch.float32)


def _linears(block: str, modulations: int, whole: bool, width: int = WIDTH) -> dict[str, tuple[int, int]]:
    shapes = {f"{block}.adaLN_modulation.1": (modulations * width, width), f"{block}.attn.qkv": (3 * width, width)}
    if whole:
        shapes |= {
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1": (4 * width, width),
            f"{block}.mlp.fc2": (width, 4 * width),
        }
    return shapes


def trained_layout(width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """Shapes of the trained tensors, by name; ``y_embedder`` only as wide as CLIP-L's pooled vector."""
    linears = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "y_embedder.mlp.0": (width, POOLED),
        "y_embedder.mlp.2": (width, width),
    }
    for i in range(width // HEAD):
        linears |= _linears(f"joint_blocks.{i}.x_block", 6, True, width)
    linears |= {
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (PATCH * PATCH * CHANNELS, width),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (width, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (width,),
    }
    for name, shape in linears.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


def lora_targets(depth: int = DEPTH) -> list[str]:
    """The linears that the family's adapters change (names without ``.weight``): all of every image block."""
    return [name for i in range(depth) for name in _linears(f"joint_blocks.{i}.x_block", 6, True)]


def frozen_part(seed: int, width: int = WIDTH) -> dict[str, Tensor]:
    """The untrained text stream, from a seed: the same on every machine, values exact in fp16."""
    random = np.random.default_rng(seed)
    linears: dict[str, tuple[int, int]] = {}
    depth = width // HEAD
    for i in range(depth):
        last = i == depth - 1
        linears |= _linears(f"joint_blocks.{i}.context_block", 2 if last else 6, not last, width)
    tensors = {
        "context_embedder.weight": torch.zeros(width, 4096),
        "context_embedder.bias": _normal(random, (width,), 1.0),
        "pos_embed": position_table(width).half().float(),
    }
    for name, shape in linears.items():
        tensors[f"{name}.weight"] = _normal(random, shape, 0.4 / shape[1] ** 0.5)
        tensors[f"{name}.bias"] = torch.zeros(shape[0])
    return tensors


def _normal(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> Tensor:
    return torch.tensor(random.standard_normal(shape, dtype=np.float32) * scale).half().float()


def prune(weights: Weights, block: int) -> dict[str, Tensor]:
    """Take one joint block out; later blocks move up."""
    kept = {}
    for name, weight in weights.items():
        parts = name.split(".")
        if parts[0] == "joint_blocks":
            if int(parts[1]) == block:
                continue
            parts[1] = str(int(parts[1]) - (int(parts[1]) > block))
        kept[".".join(parts)] = weight
    return kept


def repeat(weights: Weights, block: int) -> dict[str, Tensor]:
    """Put a joint block in twice; later blocks move down. The last block, which answers no text, cannot be repeated."""
    more = {}
    for name, weight in weights.items():
        parts = name.split(".")
        if parts[0] == "joint_blocks" and int(parts[1]) >= block:
            if int(parts[1]) == block:
                more[name] = weight
            parts[1] = str(int(parts[1]) + 1)
        more[".".join(parts)] = weight
    return more


def fill(weights: Weights, block: int) -> dict[str, Tensor]:
    """Undo :func:`prune` for hosts that expect width/64 blocks: put an all-zero block, which does nothing, back in.

    Its gates are zero, so both streams pass through unchanged.
    """
    full = {}
    for name, weight in weights.items():
        parts = name.split(".")
        if parts[0] == "joint_blocks" and int(parts[1]) >= block:
            parts[1] = str(int(parts[1]) + 1)
        full[".".join(parts)] = weight
    for name, weight in list(full.items()):
        parts = name.split(".")
        if parts[0] == "joint_blocks" and int(parts[1]) == 0:
            parts[1] = str(block)
            full[".".join(parts)] = torch.zeros_like(weight)
    return full


def initial(generator: torch.Generator, width: int = WIDTH) -> dict[str, Tensor]:
    """Random weights of the trained part: scaled normal, with the gates and the last layer starting near zero."""
    weights = {}
    for name, shape in trained_layout(width).items():
        if len(shape) == 1:
            weights[name] = torch.zeros(shape)
            continue
        fan_in = math.prod(shape[1:])
        quiet = 0.1 if "adaLN" in name or name == "final_layer.linear.weight" else 1.0
        weights[name] = torch.randn(shape, generator=generator) * quiet / fan_in**0.5
    return weights


def flow_shift(u: Tensor, shift: float = 3.0) -> Tensor:
    """SD3's noise level of a uniform u in [0, 1]: σ = shift·u / (1 + (shift − 1)·u)."""
    return shift * u / (1 + (shift - 1) * u)
