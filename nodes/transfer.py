"""LoRA-X Transfer: a LoRA of one base model rebuilt for another, without training."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from . import host
from .common import (
    CATEGORY,
    changes_text_encoder,
    fitting,
    menu,
    picture,
    shown,
    size_inputs,
    subspace_size,
    to_adapter,
    to_state,
)


class LoRAXTransfer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        from ..kernels.transfer import METHODS

        return io.Schema(
            node_id="LoraGraft_Transfer",
            display_name="LoRA-X Transfer",
            category=CATEGORY,
            description="Makes a LoRA for the target base from one trained on the source base, from the weights of the "
            "two bases alone, and reports what survived. Connect the outputs straight to a sampler, or save the LoRA.",
            search_aliases=["transfer lora", "convert lora", "port lora", "lora-x", "prolora", "cross model lora"],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="The LoRA to move."),
                io.Model.Input("source", tooltip="The base model the LoRA was trained on."),
                io.Model.Input("target", tooltip="The base model to make a LoRA for. It is not changed."),
                io.Combo.Input(
                    "method", options=["auto", *METHODS], default="auto",
                    tooltip="auto: lora-x for adapters that lie in their base's subspace, copy between relatives, and "
                    "plain words when the bases are strangers. " + menu(METHODS),
                ),
                *size_inputs(),
                io.Float.Input(
                    "threshold", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Mean similarity of a weight below which lora-x, prolora and rotate leave it to plain "
                    "copying. 0 never does; ProLoRA uses 0.8.",
                ),
                io.Int.Input(
                    "rank", default=0, min=0, max=4096, advanced=True,
                    tooltip="Largest rank of the result; 0 leaves ranks as they come. What a cut loses is reported.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=-100.0, max=100.0, step=0.01,
                    tooltip="Factor on the whole result, as in a LoRA loader; it is built into the new LoRA.",
                ),
                io.Clip.Input(
                    "source_clip", optional=True, lazy=True,
                    tooltip="Text encoder of the source. Evaluated only for LoRAs that change the text encoder.",
                ),
                io.Clip.Input("target_clip", optional=True, tooltip="Text encoder of the target. It is not changed."),
            ],
            outputs=[
                io.LoraModel.Output("lora_out", display_name="lora", tooltip="The LoRA for the target base."),
                io.Model.Output("model", display_name="model", tooltip="The target with the new LoRA on it."),
                io.Clip.Output(
                    "clip", display_name="clip",
                    tooltip="The target's text encoder with the new LoRA on it; empty when target_clip is.",
                ),
                io.String.Output("report", display_name="report", tooltip="Sentences, then tables, in Markdown."),
                io.Image.Output(
                    "heat_map", display_name="heat map", tooltip="Similarity and kept energy by block and role."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, lora, **inputs):
        waiting = "source_clip" in inputs and inputs["source_clip"] is None
        return ["source_clip"] if waiting and changes_text_encoder(lora) else []

    @classmethod
    def execute(
        cls, lora, source, target, method, subspace, k_share, k, energy, threshold, rank, strength,
        source_clip=None, target_clip=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..adapters.metadata import written
        from ..jobs.cache import SubspaceCache
        from ..jobs.transfer import TransferSettings, transfer

        settings = TransferSettings(
            method=method, size=subspace_size(subspace, k_share, k, energy), threshold=threshold, rank=rank or None,
            strength=strength,
        )  # fmt: skip
        ours, theirs = host.HostBase(source, source_clip), host.HostBase(target, target_clip)
        theirs.make_room()
        result = transfer(
            to_adapter(lora), ours, theirs, settings,
            progress=host.Progress(), cache=SubspaceCache(), device=host.device(),
        )  # fmt: skip
        metadata = written(result.adapter.metadata, result.provenance, changed=True)
        adapter = replace(result.adapter, metadata=metadata)
        model, clip = host.apply(target, target_clip, fitting(adapter, theirs), 1.0, 1.0)
        text, image = result.report.to_markdown(), picture(result.report)
        return io.NodeOutput(to_state(adapter), model, clip, text, image, ui=shown(text, image, cls))
