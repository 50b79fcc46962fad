"""The nodes. This module is imported by ComfyUI when it loads the pack, and by nothing else."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .apply_lora import ApplyLoRA
from .distill import DistillAdapter
from .lego_merge import LEGOMerge
from .load_lora import LoadLoRA
from .match_strength import MatchStrength
from .merge_loras import MergeLoRAs
from .picture_dataset import PictureDataset
from .resize_lora import ResizeLoRA
from .save_dataset import LoadDataset, SaveDataset
from .save_lora import SaveLoRA
from .similarity import SubspaceSimilarity
from .synthetic_dataset import SyntheticDataset
from .synthetic_prompts import SyntheticPrompts
from .train_discriminator import LoadDiscriminator, TrainDiscriminator
from .transfer import LoRAXTransfer


class LoraGraftExtension(ComfyExtension):
    """LoRA Graft's nodes, and what the editor asks the server about files."""

    async def on_load(self) -> None:
        host.serve()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadLoRA,
            SubspaceSimilarity,
            LoRAXTransfer,
            MatchStrength,
            LEGOMerge,
            MergeLoRAs,
            ResizeLoRA,
            ApplyLoRA,
            SaveLoRA,
            SyntheticPrompts,
            TrainDiscriminator,
            LoadDiscriminator,
            SyntheticDataset,
            PictureDataset,
            SaveDataset,
            LoadDataset,
            DistillAdapter,
        ]
