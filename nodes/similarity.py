"""Subspace Similarity: how alike two base models are, weight by weight."""

from __future__ import annotations

import math

from comfy_api.latest import io

from . import host
from .common import CATEGORY, picture, shown, size_inputs, subspace_size, to_adapter


class SubspaceSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_SubspaceSimilarity",
            display_name="Subspace Similarity",
            category=CATEGORY,
            description="Compares the leading singular vectors of two base models, weight by weight. 0 means no more "
            "alike than chance, 1 the same. Tells before a transfer whether the two are relatives.",
            search_aliases=["compare models", "model similarity", "lora-x similarity", "svd"],
            is_output_node=True,
            inputs=[
                io.Model.Input("source", tooltip="One base model, usually the one a LoRA was trained on."),
                io.Model.Input("target", tooltip="The other base model."),
                *size_inputs(),
                io.LoraModel.Input(
                    "lora",
                    optional=True,
                    tooltip="With a LoRA only the weights that it changes are compared, which is quicker and is what "
                    "matters for transferring it.",
                ),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="Sentences, then tables, in Markdown."),
                io.Image.Output("heat_map", display_name="heat map", tooltip="Similarity by block and role."),
                io.Float.Output(
                    "similarity",
                    display_name="similarity",
                    tooltip="Mean over all compared weights, corrected for chance: 0 chance, 1 the same.",
                ),
            ],
        )

    @classmethod
    def execute(cls, source, target, subspace, k_share, k, energy, lora=None) -> io.NodeOutput:
        from ..jobs.cache import SubspaceCache
        from ..jobs.transfer.compare import compare

        size = subspace_size(subspace, k_share, k, energy)
        ours, theirs = host.HostBase(source), host.HostBase(target)
        ours.make_room()
        report = compare(
            ours,
            theirs,
            size,
            adapter=None if lora is None else to_adapter(lora),
            progress=host.Progress(),
            cache=SubspaceCache(),
            device=host.device(),
        )
        text, image = report.to_markdown(), picture(report)
        mean = report.totals["mean_similarity"]
        return io.NodeOutput(text, image, math.nan if mean is None else mean, ui=shown(text, image, cls, report))
