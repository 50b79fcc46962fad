"""Adapter files: every format read into one form and written again, nothing lost.

One file per format (``lora``, ``loha``, ``lokr``, ``glora``, ``oft``, ``boft``, ``ia3``, ``full``, ``dora``), a short
ordered registry, and three floors of file handling: ``container`` (bytes), ``dialects`` (odd key schemes) and
``layouts``/``convert`` (key and suffix styles).
"""

from .files import from_state_dict, read, to_state_dict, write
from .layouts import layout_of, lora_module
from .metadata import settled
from .model import Adapter, AdapterModule, LoraState

__all__ = [
    "Adapter",
    "LoraState",
    "AdapterModule",
    "from_state_dict",
    "layout_of",
    "lora_module",
    "read",
    "settled",
    "to_state_dict",
    "write",
]
