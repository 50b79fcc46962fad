"""Save Dataset and Load Dataset: drawing is done once."""

from __future__ import annotations

from comfy_api.latest import io

from . import host
from .common import CATEGORY
from .distilling import DATASET
from .save_lora import saved


class SaveDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_SaveDataset",
            display_name="Save Dataset",
            category=CATEGORY,
            description="Writes a synthetic dataset (latents, prompts, scores) into output/datasets. No file is ever "
            "overwritten: a counter is appended to the name.",
            search_aliases=["export dataset", "write dataset"],
            is_output_node=True,
            inputs=[
                DATASET.Input("dataset", tooltip="The dataset to save."),
                io.String.Input(
                    "filename_prefix",
                    default="dataset",
                    tooltip="Beginning of the file name, perhaps with subfolders. A counter follows.",
                ),
            ],
            outputs=[io.String.Output("path", display_name="path", tooltip="Full path of the new file.")],
        )

    @classmethod
    def execute(cls, dataset, filename_prefix) -> io.NodeOutput:
        from ..jobs.distill.dataset import save

        path = saved(host.dataset_folder(), filename_prefix, lambda path: save(dataset, path))
        return io.NodeOutput(str(path), ui={"text": (str(path),)})


class LoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        files = host.dataset_files() or ["none saved yet"]
        return io.Schema(
            node_id="LoraGraft_LoadDataset",
            display_name="Load Dataset",
            category=CATEGORY,
            description="Reads a dataset that Save Dataset wrote, from output/datasets or the input folder.",
            search_aliases=["open dataset", "read dataset"],
            inputs=[
                io.Combo.Input("file", options=files, default=files[0], tooltip="The dataset; newest first."),
            ],
            outputs=[
                DATASET.Output("dataset", display_name="dataset", tooltip="For Distill Adapter."),
                io.String.Output("report", display_name="report", tooltip="What it holds, in Markdown."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        path = host.dataset_path(file)
        return path.stat().st_mtime_ns if path.exists() else 0

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        from ..jobs.distill.dataset import load
        from ..jobs.distill.generate import account

        dataset = load(host.dataset_path(file))
        return io.NodeOutput(dataset, account(dataset))
