"""Merge methods: each takes one module's updates, one per LoRA, and returns one update.

All work on the true ΔW; the up and down factors are never merged apart, which would create cross terms.
"""

# Importing registers them, in the order of the menus.
from . import lego, concat, linear, svd, ties, dare, della, magnitude, knots, core_space, tsv, iso  # noqa: F401, I001
from .registry import METHODS, UNITS, Merged, MergeOptions, Method, check, method

__all__ = ["METHODS", "UNITS", "MergeOptions", "Merged", "Method", "check", "method"]
