"""Resize LoRA: one LoRA at a smaller rank."""

from __future__ import annotations

from comfy_api.latest import io

from ..choices import Resize
from . import host, merging
from .common import CATEGORY, to_adapter


class ResizeLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_ResizeLoRA",
            display_name="Resize LoRA",
            category=CATEGORY,
            description="Cuts a LoRA to a smaller rank, fixed or chosen for each module from its singular values, and "
            "reports what that costs.",
            search_aliases=["shrink lora", "lora rank", "prune lora", "compress lora", "sv_ratio", "sv_fro"],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="The LoRA to make smaller."),
                io.Combo.Input(
                    "rule",
                    options=list(Resize.rules),
                    default=Resize.rule,
                    tooltip="rank: this rank for every module. ratio: singular values above the largest divided by "
                    "amount. cumulative, energy, frobenius: the fewest that hold amount of their sum, of their "
                    "squares, of the norm.",
                ),
                io.Float.Input(
                    "amount",
                    default=Resize.amount,
                    min=0.0,
                    max=4096.0,
                    step=0.01,
                    tooltip="The number of the rule: a rank (16), a ratio (10) or a share (0.9).",
                ),
                io.Int.Input(
                    "max_rank",
                    default=Resize.max_rank or 0,
                    min=0,
                    max=4096,
                    tooltip="Largest rank whatever the rule says; 0 for no limit.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model the LoRA is for. Needed only to cut DoRA, OFT and the like. It is not changed.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Its text encoder, for such LoRAs that change it."),
            ],
            outputs=[
                io.LoraModel.Output("lora_out", display_name="lora", tooltip="The smaller LoRA, in the same layout."),
                io.String.Output("report", display_name="report", tooltip="Sentences, then tables, in Markdown."),
                io.Image.Output("plot", display_name="plot", tooltip="Cosine with the original, by block."),
            ],
        )

    @classmethod
    def execute(cls, lora, rule, amount, max_rank, model=None, clip=None) -> io.NodeOutput:
        from ..jobs.merge.resize import ResizeSettings, resize

        base = None if model is None else host.HostBase(model, clip)
        settings = ResizeSettings(rule, amount, max_rank or None)
        return merging.finish(cls, resize(to_adapter(lora), settings, base=base, progress=host.Progress()))
