"""LoRA Graft: move, merge and re-teach LoRA adapters across diffusion base models.

This folder is both a ComfyUI node pack and the Python package ``lora_graft``.
Nothing of the host is imported until the host calls :func:`comfy_entrypoint`.
"""

from .version import __version__ as __version__

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI's V3 loader; returns the pack's ``ComfyExtension``."""
    from .nodes import LoraGraftExtension

    return LoraGraftExtension()
