"""Student kinds: each turns a few trainable tensors into the change of one weight, and into an adapter's tensors."""

# Importing registers them, in the order of the menus.
from . import lora, lora_x, loha, lokr, dora  # noqa: F401, I001
from .model import Change, Student
from .registry import STUDENTS, Kind, student

__all__ = ["STUDENTS", "Change", "Kind", "Student", "student"]
