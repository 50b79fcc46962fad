"""What one module of a file looks like in each format: (weight's shape, number of the module) -> suffix -> tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import torch
from torch import Generator, Tensor

Shape = tuple[int, ...]
Tensors = dict[str, Tensor]
Format = Callable[[Shape, int, Generator], Tensors]

KOHYA, PEFT = (".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")
OLD, OLDER = (".lora.up.weight", ".lora.down.weight"), ("_lora.up.weight", "_lora.down.weight")
TEXT = (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight")
NAMED = (".lora_B.default.weight", ".lora_A.default.weight")


def _rank(number: int) -> int:
    """Ranks alternate between 2 and 4."""
    return 2 * (1 + number % 2)


def _alpha(value: float | None) -> Tensors:
    return {} if value is None else {".alpha": torch.tensor(value)}


def lora(shape: Shape, number: int, generator: Generator, suffixes=KOHYA, alpha: float | None = None) -> Tensors:
    """LoRA; for a convolution LoCon without a core."""
    rank, kernel = _rank(number), shape[2:]
    up = torch.randn(shape[0], rank, *[1] * len(kernel), generator=generator)
    down = torch.randn(rank, *shape[1:], generator=generator)
    return {suffixes[0]: up, suffixes[1]: down, **_alpha(alpha)}


def uneven(shape: Shape, number: int, generator: Generator) -> Tensors:
    """LoRA of one rank whose alphas alternate."""
    return lora(shape, 0, generator, alpha=2.0 * (1 + number % 2))


def locon(shape: Shape, number: int, generator: Generator) -> Tensors:
    """LoCon with a core (``use_tucker``) on kernels larger than one point."""
    if prod(shape[2:]) == 1:
        return lora(shape, number, generator, alpha=1.0)
    rank = _rank(number)
    return {
        KOHYA[0]: torch.randn(shape[0], rank, 1, 1, generator=generator),
        ".lora_mid.weight": torch.randn(rank, rank, *shape[2:], generator=generator),
        KOHYA[1]: torch.randn(rank, shape[1], 1, 1, generator=generator),
        **_alpha(1.0),
    }


def loha(shape: Shape, number: int, generator: Generator, alpha: float | None = 1.0) -> Tensors:
    """LoHa, with cores on kernels larger than one point."""
    rank, kernel, found = _rank(number), shape[2:], {}
    for half in "12":
        if prod(kernel) > 1:
            found[f".hada_t{half}"] = torch.randn(rank, rank, *kernel, generator=generator)
            found[f".hada_w{half}_a"] = torch.randn(rank, shape[0], generator=generator)
            found[f".hada_w{half}_b"] = torch.randn(rank, shape[1], generator=generator)
        else:
            found[f".hada_w{half}_a"] = torch.randn(shape[0], rank, generator=generator)
            found[f".hada_w{half}_b"] = torch.randn(rank, prod(shape[1:]), generator=generator)
    return found | _alpha(alpha)


def lokr(shape: Shape, number: int, generator: Generator, alpha: float | None = 1.0, whole: bool = False) -> Tensors:
    """LoKr of factor 4: in turn with a factored second half and with two; ``whole``: both halves as they are."""
    rank, kernel, factor = _rank(number), shape[2:], 4
    inputs = 1 if shape[1] % factor else factor
    first, second = (factor, inputs), (shape[0] // factor, shape[1] // inputs)
    if whole:
        return {
            ".lokr_w1": torch.randn(first, generator=generator),
            ".lokr_w2": torch.randn(*second, *kernel, generator=generator),
            **_alpha(alpha),
        }
    found = {
        ".lokr_w2_a": torch.randn(second[0], rank, generator=generator),
        ".lokr_w2_b": torch.randn(rank, second[1] * prod(kernel), generator=generator),
    }
    if number % 2:
        found[".lokr_w1_a"] = torch.randn(first[0], 2, generator=generator)
        found[".lokr_w1_b"] = torch.randn(2, first[1], generator=generator)
    else:
        found[".lokr_w1"] = torch.randn(first, generator=generator)
    return found | _alpha(alpha)


def dora(shape: Shape, number: int, generator: Generator, *, columns: bool = False) -> Tensors:
    """DoRA as LyCORIS writes it; ``columns``: its older form, one magnitude per input channel."""
    channels = (1, shape[1]) if columns else (shape[0], 1)
    magnitudes = torch.rand(*channels, *[1] * len(shape[2:]), generator=generator) * shape[0] ** 0.5
    return lora(shape, number, generator, alpha=1.0) | {".dora_scale": magnitudes}


def peft_dora(shape: Shape, number: int, generator: Generator) -> Tensors:
    """DoRA as PEFT writes it."""
    magnitudes = torch.rand(shape[0], generator=generator) * shape[1] ** 0.5
    return lora(shape, number, generator, PEFT) | {".lora_magnitude_vector": magnitudes}


def full(shape: Shape, number: int, generator: Generator, bias: bool = False) -> Tensors:
    """The whole difference; ``bias``: with the bias's beside it."""
    found = {".diff": torch.randn(shape, generator=generator)}
    return found | ({".diff_b": torch.randn(shape[0], generator=generator)} if bias else {})


def norm(shape: Shape, number: int, generator: Generator) -> Tensors:
    """Scale and shift of a normalisation."""
    return {".w_norm": torch.randn(shape, generator=generator), ".b_norm": torch.randn(shape, generator=generator)}


def biased(shape: Shape, number: int, generator: Generator) -> Tensors:
    """PEFT's LoRA with a bias (``lora_bias=True``)."""
    return lora(shape, number, generator, PEFT) | {".lora_B.bias": torch.randn(shape[0], generator=generator)}


def spelled(suffixes: tuple[str, str], alpha: float | None = None) -> Format:
    """LoRA under other suffixes."""
    return partial(lora, suffixes=suffixes, alpha=alpha)
