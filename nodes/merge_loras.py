"""Merge LoRAs: several LoRAs into one by any of the methods."""

from __future__ import annotations

from comfy_api.latest import io

from ..choices import Merge
from . import merging
from .common import CATEGORY, menu, only_with


class MergeLoRAs(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        from ..kernels.merge import METHODS

        return io.Schema(
            node_id="LoraGraft_MergeLoRAs",
            display_name="Merge LoRAs",
            category=CATEGORY,
            description="Merges LoRAs of any ranks, formats and trainers into one: the exact sum, its SVD cut, LEGO, "
            "TIES and the other published ways, all on the true updates.",
            search_aliases=["merge lora", "combine lora", "ties", "dare", "svd merge", "concat lora", "lora stack"],
            is_output_node=True,
            inputs=[
                *merging.lora_inputs(),
                io.Combo.Input("method", options=list(Merge.methods), default=Merge.method, tooltip=menu(METHODS)),
                *merging.rank_inputs(),
                io.Float.Input(
                    "density",
                    default=Merge.density,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of entries kept. Used by the methods that drop entries, such as ties and dare.",
                    extra_dict=only_with(method=Merge.readers["density"]),
                ),
                *merging.unit_inputs(),
                merging.seed_input("of clustering and of random masks"),
                *merging.optional_inputs(),
            ],
            outputs=merging.outputs(),
        )

    @classmethod
    def execute(
        cls,
        strengths,
        method,
        rank,
        k,
        energy,
        density,
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
            method=method,
            rank=rank,
            fixed_rank=k,
            energy=energy,
            density=density,
            units=units,
            parameter_reweighting=parameter_reweighting,
            output_reweighting=output_reweighting,
            seed=seed,
        )
