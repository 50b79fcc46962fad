"""Load LoRA: a file of models/loras as an adapter, with a text that says what it is."""

from __future__ import annotations

from comfy_api.latest import io

from . import host
from .common import CATEGORY, to_state


class LoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_LoadLoRA",
            display_name="Load LoRA",
            category=CATEGORY,
            description="Reads a LoRA file of any common format and tells what it is. Nothing in it is lost: unknown "
            "keys and metadata travel along.",
            search_aliases=["lora info", "inspect lora", "lora metadata", "trigger words"],
            inputs=[io.Combo.Input("lora_name", options=host.lora_files(), tooltip="A file in models/loras.")],
            outputs=[
                io.LoraModel.Output("lora", display_name="lora", tooltip="The adapter. Core's LoRA nodes take it too."),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="Format, likely base, modules, ranks, norms, trigger words and training tags.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name):
        if host.lora_path(lora_name) is None:
            return f"There is no file {lora_name} in models/loras."
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name):
        path = host.lora_path(lora_name)
        stat = path.stat() if path else None
        return (str(path), stat.st_mtime_ns, stat.st_size) if stat else lora_name

    @classmethod
    def execute(cls, lora_name) -> io.NodeOutput:
        from .. import adapters
        from ..jobs.inspect import inspect_adapter

        adapter = adapters.read(host.lora_path(lora_name))
        info = inspect_adapter(adapter).to_text()
        return io.NodeOutput(to_state(adapter), info, ui={"text": (info,)})
