"""The nodes. This module is imported by ComfyUI when it loads the pack, and by nothing else."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply_lora import ApplyLoRA
from .lego_merge import LEGOMerge
from .load_lora import LoadLoRA
from .merge_loras import MergeLoRAs
from .resize_lora import ResizeLoRA
from .save_lora import SaveLoRA
from .similarity import SubspaceSimilarity
from .transfer import LoRAXTransfer


class LoraGraftExtension(ComfyExtension):
    """LoRA Graft's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadLoRA, SubspaceSimilarity, LoRAXTransfer, LEGOMerge, MergeLoRAs, ResizeLoRA, ApplyLoRA, SaveLoRA]
