"""Products of float32 matrices in float32, whatever the process allows itself elsewhere.

A host may let the GPU round the factors of float32 products to TF32 (10 bits), or the CPU to bfloat16 (7 bits), which
pictures do not show. Subspaces do: an overlap of 1 becomes .999, and a spectral route fails its test and falls back to
a slower one. PyTorch keeps these switches per process and not per thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """The body, or as a decorator the function, with float32 products in float32; then as before. May be nested."""
    before = [(switches, switches.fp32_precision) for switches in _switches()]
    if before:
        for switches, _ in before:
            switches.fp32_precision = "ieee"
        try:
            yield
        finally:
            for switches, precision in before:
                switches.fp32_precision = precision
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _switches() -> list[Any]:
    """What holds the precision for each kind of device; none before PyTorch 2.9, which has one for all."""
    backends = (torch.backends.cuda, getattr(torch.backends, "mkldnn", None))
    found = [getattr(backend, "matmul", None) for backend in backends]
    return [switches for switches in found if _known(switches)]


def _known(switches: Any) -> bool:
    try:
        return bool(switches.fp32_precision)
    except (AttributeError, AssertionError):  # the second is what older releases raise for a name they lack
        return False
