"""Layouts: which keys and suffixes a file uses, telling them apart and changing them."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2, prod

import torch
from torch import Tensor

from ..errors import AdapterError
from ..kernels.lowrank import LowRank
from ..names.keys import parse_key
from .dora import Dora
from .lora import KOHYA, PEFT, Lora
from .module import ALPHA, AdapterModule

DTYPES: dict[str | None, torch.dtype | None] = {
    None: None,
    "same": None,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


def layout_of(keys: Iterable[str]) -> str:
    """The layout most keys belong to; "bare" when they carry no prefix."""
    counts: dict[str, int] = {}
    for key in keys:
        name = parse_key(key).layout
        counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: counts[name]) if counts else "bare"


def spelling_for(key: str) -> tuple[tuple[str, str], bool]:
    """Suffixes of (up, down) customary for a key, and whether an ``alpha`` goes with them."""
    layout = layout_of([key])
    return (PEFT, False) if layout in ("peft", "diffusers") else (KOHYA, True)


def lora_module(
    key: str,
    update: LowRank,
    *,
    shape: tuple[int, ...],
    like: AdapterModule | None = None,
    dtype: torch.dtype | str | None = None,
) -> Lora:
    """A LoRA module holding ``update`` exactly (to the dtype's rounding), spelled as its neighbours are.

    Args:
        key: the module key to write under.
        update: factors (m, r) and (r, n·kh·kw), the scale in ``up``.
        shape: shape of the weight; kernels make ``up`` (m, r, 1, 1) and ``down`` (r, n, kh, kw).
        like: the module it replaces; its spelling, its alpha, and unless ``dtype`` is given its dtype, are kept.
        dtype: dtype of the factors ("fp16" ... or a torch dtype); float32 when neither says.

    Raises:
        AdapterError: the update does not have the shape's rows and columns.
    """
    if update.shape != (shape[0], prod(shape[1:])):
        raise AdapterError(f"An update of {tuple(update.shape)} does not fit a weight of {tuple(shape)}", key=key)
    inner = like.inner if isinstance(like, Dora) else like
    if isinstance(inner, Lora) and "embedding" not in inner.spelling[0]:
        spelling, with_alpha = inner.spelling, inner.alpha is not None or inner.spelling == KOHYA
    else:
        spelling, with_alpha = spelling_for(key)
    if not isinstance(dtype, torch.dtype):
        dtype = DTYPES[dtype] or _dtype_of(like)
    alpha = _alpha_of(inner, update.rank)
    if with_alpha:
        update = LowRank(update.up * (update.rank / alpha), update.down)
    up, down = balanced(update, dtype)
    if len(shape) > 2:
        up, down = up.reshape(*up.shape, *[1] * (len(shape) - 2)), down.reshape(-1, *shape[1:])
    tensors = {spelling[0]: up.to(dtype).contiguous(), spelling[1]: down.to(dtype).contiguous()}
    if with_alpha:
        tensors[ALPHA] = torch.tensor(alpha, dtype=torch.float32)
    return Lora(key, tensors, file=like.file if like else None)


def kernel_shape(shape: tuple[int, ...], whole: tuple[int, ...] | None) -> tuple[int, ...]:
    """A module's shape with the kernel of its weight: factors and products for a convolution may be stored flat.

    whole: the weight's shape, of this model or of another width; None when not known.
    """
    if whole is None or len(whole) < 3 or len(shape) != 2:
        return shape
    columns, rest = divmod(shape[1], prod(whole[2:]))
    return shape if rest else (shape[0], columns, *whole[2:])


def _alpha_of(like: AdapterModule | None, rank: int) -> float:
    """The alpha of the module that a new one replaces, so that a file keeps one for all; else the rank.

    Not where it is far from the rank: zero, negative or, in some LoKr files, a number without meaning.
    """
    alpha = like.alpha if like is not None else None
    return alpha if alpha is not None and rank / 1024 <= alpha <= rank * 1024 else float(rank)


def _dtype_of(module: AdapterModule | None) -> torch.dtype:
    """dtype of a module's factors; float32 when there are none or they are 8-bit floats."""
    for tensor in module.tensors.values() if module else ():
        if tensor.dtype.is_floating_point and tensor.ndim > 1:
            return tensor.dtype if tensor.element_size() > 1 else torch.float32
    return torch.float32


def balanced(update: LowRank, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors whose largest values are within a power of two of each other, for dtypes with a short range.

    Powers of two change no bit of the mantissa; float32 factors are returned as they are.
    """
    up, down = update
    tops = float(up.abs().max()), float(down.abs().max())
    if dtype == torch.float32 or min(tops) == 0:
        return up, down
    shift = 2.0 ** round(log2(tops[0] / tops[1]) / 2)
    return up / shift, down * shift
