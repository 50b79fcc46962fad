"""A layer under a student: its plain output plus a thin branch; neither ΔW nor W' is ever formed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .students import Change

CONVOLUTIONS = {"conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d}
KINDS = ("linear", *CONVOLUTIONS)
Sizes = int | tuple[int, ...]


def apply(
    x: Tensor,
    layer_kind: str,
    change: Change,
    *,
    weight_shape: tuple[int, ...],
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """ΔW applied to the layer's input: up · (down · x), in x's dtype whatever the factors' own.

    Args:
        x: (..., n) for "linear", (N, n·groups, H, W) for "conv2d". Layers that pad other than with zeros: pad x first.
        layer_kind: one of KINDS; a "linear" layer may have a weight of shape (m, n, 1, 1).
        weight_shape: (m, n, ...) of the layer.
        stride, padding, dilation, groups: the convolution's own.

    Returns:
        what the layer would return for ΔW without a bias. For `change.gain` see :func:`changed`.
    """
    up, down = change.up.to(x.dtype), change.down.to(x.dtype)
    if layer_kind == "linear":
        return F.linear(F.linear(x, down), up)
    convolve = CONVOLUTIONS[layer_kind]
    kernel = down.reshape(-1, *weight_shape[1:])
    # Every group sees its own channels through the same `down` and answers with its own rows of `up`.
    kernel = kernel.repeat(groups, *[1] * (kernel.ndim - 1)) if groups > 1 else kernel
    inner = convolve(x, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return convolve(inner, up.reshape(*up.shape, *[1] * (len(weight_shape) - 2)), groups=groups)


def changed(
    output: Tensor,
    x: Tensor,
    change: Change,
    bias: Tensor | None = None,
    *,
    layer_kind: str,
    weight_shape: tuple[int, ...],
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """What the layer returns with the weight gain ∘ (W + ΔW): gain ∘ (output − bias + branch) + bias.

    Args:
        output: what it returns for x with its plain weight and `bias` (m,).
        x, change and the others: as in :func:`apply`.
    """
    branch = apply(
        x,
        layer_kind,
        change,
        weight_shape=weight_shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    if change.gain is None:
        return output + branch
    across = (-1, *[1] * (0 if layer_kind == "linear" else len(weight_shape) - 2))
    rows = output + branch if bias is None else output - bias.to(output.dtype).reshape(across) + branch
    # Written so that a gain of 1 leaves the output untouched, bit by bit.
    return output + branch + (change.gain - 1).to(output.dtype).reshape(across) * rows
