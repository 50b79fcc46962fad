"""LoRA-X Transfer: a LoRA of one base model rebuilt for another, without training."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..choices import Drawing, Transfer
from . import host
from .common import (
    CATEGORY,
    changes_text_encoder,
    fitting,
    menu,
    only_with,
    picture,
    shown,
    size_inputs,
    strengthened,
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
                    "method",
                    options=["auto", *Transfer.methods],
                    default=Transfer.method,
                    tooltip="auto: lora-x for adapters that lie in their base's subspace, copy between relatives, and "
                    "plain words when the bases are strangers. " + menu(METHODS),
                ),
                *size_inputs(),
                io.Float.Input(
                    "threshold",
                    default=Transfer.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Mean similarity of a weight from which it takes part; 0 takes every weight, ProLoRA uses "
                    "0.8. below_threshold says what becomes of the others.",
                ),
                io.Int.Input(
                    "rank",
                    default=Transfer.rank or 0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="Largest rank of the result; 0 leaves ranks as they come. What a cut loses is reported.",
                ),
                io.Float.Input(
                    "strength",
                    default=Transfer.strength,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Factor on the whole result, as in a LoRA loader; it is built into the new LoRA.",
                ),
                io.Boolean.Input(
                    "match_strength",
                    optional=True,
                    default=False,
                    advanced=True,
                    tooltip="Find the strength at which the new LoRA acts on the target as the original does on the "
                    "source, as Match Strength does, and build it in. Needs both text encoders; draws a few pictures.",
                ),
                io.Int.Input(
                    "match_size",
                    optional=True,
                    default=Drawing.width,
                    min=16,
                    max=8192,
                    step=8,
                    advanced=True,
                    tooltip="Width and height of these pictures in pixels. Used when match_strength is on.",
                    extra_dict=only_with(match_strength=None),
                ),
                io.Clip.Input(
                    "source_clip",
                    optional=True,
                    lazy=True,
                    tooltip="Text encoder of the source. Evaluated only for LoRAs that change the text encoder, and to "
                    "match the strength.",
                ),
                io.Clip.Input("target_clip", optional=True, tooltip="Text encoder of the target. It is not changed."),
                io.Combo.Input(
                    "below_threshold",
                    optional=True,
                    options=list(Transfer.filters),
                    default=Transfer.below_threshold,
                    advanced=True,
                    tooltip="What becomes of weights below the threshold. auto: leave-out with lora-x, as its paper "
                    "does, copy with prolora and rotate; copy takes every weight. Used when threshold is above 0.",
                    extra_dict=only_with(threshold=None),
                ),
                io.Combo.Input(
                    "match_blocks",
                    optional=True,
                    options=list(Transfer.matchings),
                    default=Transfer.match_blocks,
                    advanced=True,
                    tooltip="Where the two models have blocks in different numbers. auto: the published pruning map, "
                    "where there is one, before a search by similarity; search: always the search. The report says "
                    "which it was.",
                ),
                io.Combo.Input(
                    "fill",
                    optional=True,
                    options=list(Transfer.fills),
                    default=Transfer.fill,
                    advanced=True,
                    tooltip="Blocks of a deeper target that no block of the source feeds: nothing (none), or the "
                    "update of the most similar block (nearest), with which the effect comes out stronger.",
                ),
            ],
            outputs=[
                io.LoraModel.Output("lora_out", display_name="lora", tooltip="The LoRA for the target base."),
                io.Model.Output("model", display_name="model", tooltip="The target with the new LoRA on it."),
                io.Clip.Output(
                    "clip",
                    display_name="clip",
                    tooltip="The target's text encoder with the new LoRA on it; empty when target_clip is.",
                ),
                io.String.Output("report", display_name="report", tooltip="Sentences, then tables, in Markdown."),
                io.Image.Output(
                    "heat_map", display_name="heat map", tooltip="Similarity and kept energy by block and role."
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, lora, match_strength=False, **inputs):
        waiting = "source_clip" in inputs and inputs["source_clip"] is None
        return ["source_clip"] if waiting and (match_strength or changes_text_encoder(lora)) else []

    @classmethod
    def execute(
        cls,
        lora,
        source,
        target,
        method,
        subspace,
        k_share,
        k,
        energy,
        threshold,
        rank,
        strength,
        match_strength=False,
        match_size=Drawing.width,
        source_clip=None,
        target_clip=None,
        below_threshold=Transfer.below_threshold,
        match_blocks=Transfer.match_blocks,
        fill=Transfer.fill,
    ) -> io.NodeOutput:
        from ..adapters.metadata import with_provenance
        from ..jobs.cache import SubspaceCache
        from ..jobs.transfer.transfer import TransferSettings, transfer

        settings = TransferSettings(
            method=method,
            size=subspace_size(subspace, k_share, k, energy),
            threshold=threshold,
            rank=rank or None,
            strength=strength,
            below_threshold=below_threshold,
            match_blocks=match_blocks,
            fill=fill,
        )
        ours, theirs = host.HostBase(source, source_clip), host.HostBase(target, target_clip)
        theirs.make_room()
        result = transfer(
            to_adapter(lora),
            ours,
            theirs,
            settings,
            progress=host.Progress(),
            cache=SubspaceCache(),
            device=host.device(),
        )
        adapter, found = result.adapter, None
        if match_strength:
            found = _matched(to_adapter(lora), adapter, source, source_clip, target, target_clip, match_size)
            adapter = strengthened(adapter, found.value, theirs)
            result.provenance["settings"]["matched_strength"] = found.value
        adapter = replace(adapter, metadata=with_provenance(adapter.metadata, result.provenance, changed=True))
        model, clip = host.apply(target, target_clip, fitting(adapter, theirs), 1.0, 1.0)
        text, image = result.report.to_markdown(), picture(result.report)
        text += "\n## Matched strength\n\n" + found.to_markdown() if found is not None else ""
        return io.NodeOutput(to_state(adapter), model, clip, text, image, ui=shown(text, image, cls, result.report))


def _matched(original, moved, source, source_clip, target, target_clip, size: int):
    """The Strength of the moved adapter, compared on a few pictures of `size` pixels.

    Raises:
        SettingsError: a text encoder is missing.
    """
    from ..errors import SettingsError
    from ..jobs.distill import denoiser
    from .match_strength import matched

    if source_clip is None or target_clip is None:
        raise SettingsError(
            "Matching the strength asks both models, and a text encoder is missing",
            hint="Connect source_clip and target_clip, or switch match_strength off.",
        )
    drawing = denoiser.Drawing(size, size)
    return matched(moved, target, target_clip, original, source, source_clip, [], drawing, 0)
