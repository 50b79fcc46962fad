"""All that knows ComfyUI's own code: its models, its LoRA loader, its folders, its progress bar.

The rest of ``nodes`` only declares nodes and calls jobs.
"""

from .base import HostBase
from .files import (
    DISCRIMINATOR,
    apply,
    checkpoint_folder,
    dataset_files,
    dataset_folder,
    dataset_path,
    discriminator_files,
    discriminator_path,
    input_path,
    lora_files,
    lora_path,
    save_folder,
)
from .routes import serve
from .work import Progress, check_cancelled, device
from .writer import ClipWriter

__all__ = [
    "DISCRIMINATOR",
    "ClipWriter",
    "HostBase",
    "Progress",
    "apply",
    "check_cancelled",
    "checkpoint_folder",
    "dataset_files",
    "dataset_folder",
    "dataset_path",
    "device",
    "discriminator_files",
    "discriminator_path",
    "input_path",
    "lora_files",
    "lora_path",
    "save_folder",
    "serve",
]
