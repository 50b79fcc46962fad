"""LoRA Graft: move, merge and re-teach LoRA adapters across diffusion base models.

This folder is both a ComfyUI node pack and the Python package ``lora_graft``. Nothing of the host is imported until
the host calls :func:`comfy_entrypoint`, and no torch until one of the functions below is asked for::

    import lora_graft
    moved = lora_graft.transfer("lora.safetensors", source="old.safetensors", target="new.safetensors")
    lora_graft.write(moved.adapter, "moved.safetensors", provenance=moved.provenance)
"""

from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .face import (
        convert,
        distill,
        inspect,
        merge,
        open_base,
        prompts,
        read,
        resize,
        similarity,
        transfer,
        transfer_many,
        write,
    )

WEB_DIRECTORY = "./web"
__all__ = [
    "WEB_DIRECTORY",
    "comfy_entrypoint",
    "convert",
    "distill",
    "inspect",
    "merge",
    "open_base",
    "prompts",
    "read",
    "resize",
    "similarity",
    "transfer",
    "transfer_many",
    "write",
]


async def comfy_entrypoint():
    """Called by ComfyUI's V3 loader; returns the pack's ``ComfyExtension``."""
    from .nodes import LoraGraftExtension

    return LoraGraftExtension()


def __getattr__(name: str):
    """What ``face.py`` holds, loaded when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import face

    return globals().setdefault(name, getattr(face, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
