"""Merge methods: each takes one module's updates, one per LoRA, and returns one update.

    from lora_graft.kernels.lowrank import LowRank
    from lora_graft.kernels.merge import lego
    merged = lego([LowRank.of(up1, down1, alpha1), LowRank.of(up2, down2, alpha2)], rank=8)

What all have in common:

- `updates`: one per LoRA, up (m, r_i) and down (r_i, n) with alpha/r and the strength in them; one shape (m, n), any
  ranks. T is their number, N = Σ r_i, ΔW_i = B_i A_i one update and Σ ΔW the sum, what a chain of loaders applies.
- `rank`: the largest rank of the result; None for all that the method itself gives (lego: the largest source's).
- Options are keyword arguments of the method that reads them; ``METHODS[name].options`` lists them.
- They return :class:`Merged`: the update, its relative error, and lego's clusters.
- They raise SettingsError for an empty list, factors that do not fit, different shapes, NaN or Inf, a rank below 1 and
  an option out of its range.

All work on the true ΔW; the up and down factors are never merged apart, which would create cross terms.
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
