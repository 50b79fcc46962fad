"""Whether numbers are numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor of any shape holds no NaN or Inf.

    A sum is finite only where all its terms are, and many times quicker than looking at each; one that overflows is
    looked at again.
    """
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return bool(tensor.sum(dtype=wide).isfinite()) or bool(torch.isfinite(tensor).all())
