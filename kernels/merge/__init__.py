"""Merge methods: each takes one module's updates, one per LoRA, and returns one update.

All work on the true ΔW; the up and down factors are never merged apart, which would create cross terms.
"""

from . import concat, lego, linear, svd  # noqa: F401  (importing registers them)
from .registry import METHODS, UNITS, Merged, MergeOptions, Method, check, method

__all__ = ["METHODS", "UNITS", "MergeOptions", "Merged", "Method", "check", "method"]
