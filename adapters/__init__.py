"""Adapter files: every format read into one form and written again, nothing lost.

One file per format (``lora``, ``loha``, ``lokr``, ``glora``, ``oft``, ``boft``, ``ia3``, ``full``, ``dora``), a short
ordered registry, and the handling of files around them: ``dialects`` (odd key schemes), ``layouts`` and
``convert`` (key and suffix styles), ``peft_folder`` with ``peft_config`` and ``experts`` (language models' folders).
"""

from .adapter import Adapter, LoraState
from .files import from_state_dict, read, to_state_dict, write
from .layouts import layout_of, lora_module
from .module import AdapterModule

__all__ = [
    "Adapter",
    "LoraState",
    "AdapterModule",
    "from_state_dict",
    "layout_of",
    "lora_module",
    "read",
    "to_state_dict",
    "write",
]
