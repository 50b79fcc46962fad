"""Transfer methods: each takes an update and the two bases' subspaces and returns the target's update."""

from . import copy, lora_x, prolora, rotate  # noqa: F401  (importing registers them)
from .registry import METHODS, Method, method

__all__ = ["METHODS", "Method", "method"]
