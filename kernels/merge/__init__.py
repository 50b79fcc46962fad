"""Merge methods: each takes one module's updates, one per LoRA, and returns one update.

    from lora_graft.kernels.lowrank import LowRank
    from lora_graft.kernels.merge import lego
    merged = lego([LowRank.of(up1, down1, alpha1), LowRank.of(up2, down2, alpha2)], rank=8)

All work on the true ΔW; the up and down factors are never merged apart, which would create cross terms. Options are
keyword arguments of the method that reads them; ``METHODS[name].options`` lists them.
"""

# Importing registers them, in the order of the menus.  # ruff: noqa: I001
from .lego import lego
from .sums import concat, linear, svd
from .sparsified import ties, dare, della, magnitude
from .knots import knots
from .core_space import core_ties
from .tsv import tsv
from .iso import iso
from .registry import METHODS, Merged, Method, check, method

__all__ = [
    "METHODS",
    "Merged",
    "Method",
    "check",
    "concat",
    "core_ties",
    "dare",
    "della",
    "iso",
    "knots",
    "lego",
    "linear",
    "magnitude",
    "method",
    "svd",
    "ties",
    "tsv",
]
