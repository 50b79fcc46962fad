"""LEGO Merge: several LoRAs rebuilt from clusters of their units into one of a chosen rank."""

from __future__ import annotations

from comfy_api.latest import io

from . import merging
from .common import CATEGORY


class LEGOMerge(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_LegoMerge",
            display_name="LEGO Merge",
            category=CATEGORY,
            description="Merges LoRAs of any ranks into one of a rank you choose: takes them apart into rank-one "
            "units, clusters these and builds the new LoRA from the clusters (LoRA-LEGO, arXiv 2409.16167). One LoRA "
            "alone is pruned.",
            search_aliases=["merge lora", "combine lora", "lora-lego", "prune lora", "lora stack"],
            is_output_node=True,
            inputs=[
                *merging.lora_inputs(),
                *merging.rank_inputs(),
                *merging.unit_inputs(),
                merging.seed_input("of the clustering"),
                *merging.optional_inputs(),
            ],
            outputs=merging.outputs(),
        )

    @classmethod
    def execute(
        cls,
        strengths,
        rank,
        k,
        energy,
        units,
        parameter_reweighting,
        output_reweighting,
        seed,
        loras=None,
        lora_stack=None,
        model=None,
        clip=None,
    ) -> io.NodeOutput:
        return merging.run(
            cls,
            loras,
            strengths,
            lora_stack,
            model,
            clip,
            method="lego",
            rank=rank,
            fixed_rank=k,
            energy=energy,
            units=units,
            parameter_reweighting=parameter_reweighting,
            output_reweighting=output_reweighting,
            seed=seed,
        )
