"""Match Strength: the one strength at which a moved LoRA does on the target what the original does on the source."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..choices import Dataset
from . import host
from .common import CATEGORY, fitting, strengthened, to_adapter, to_state
from .distilling import DATASET, drawing_inputs, learning, with_loras


class MatchStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_MatchStrength",
            display_name="Match Strength",
            category=CATEGORY,
            description="Compares what the original LoRA does on the source with what the moved one does on the "
            "target, on the same noisy latents, finds the strength at which they agree best, and warns when none does.",
            search_aliases=["lora strength", "calibrate lora", "effect strength"],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="The moved LoRA, for the target."),
                io.Model.Input("target", tooltip="The new base model. It is not changed."),
                io.Clip.Input("target_clip", tooltip="The new base's text encoder."),
                io.LoraModel.Input("original", tooltip="The LoRA as it was, for the source."),
                io.Model.Input("source", tooltip="The base model the original was trained on. It is not changed."),
                io.Clip.Input("source_clip", tooltip="The source's text encoder."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="A few prompts, one a line, that set the LoRA off. Empty: made from its training tags.",
                ),
                *drawing_inputs(folded=True),
                io.Int.Input(
                    "seed",
                    default=Dataset.seed,
                    min=0,
                    max=2**31 - 1,
                    advanced=True,
                    control_after_generate="fixed",
                    tooltip="Seed of the latents.",
                ),
                DATASET.Input(
                    "dataset", optional=True, tooltip="Latents and prompts to compare on; then nothing is drawn here."
                ),
            ],
            outputs=[
                io.LoraModel.Output("lora_out", display_name="lora", tooltip="The moved LoRA at the found strength."),
                io.Float.Output("strength", display_name="strength", tooltip="The strength; it is built into lora."),
                io.Float.Output(
                    "residual",
                    display_name="residual",
                    tooltip="Share of the effect that is not met: 0 perfect, 1 as good as nothing.",
                ),
                io.String.Output("report", display_name="report", tooltip="Sentences, then a table, in Markdown."),
            ],
        )

    @classmethod
    def execute(
        cls,
        lora,
        target,
        target_clip,
        original,
        source,
        source_clip,
        prompts,
        width,
        height,
        steps,
        cfg,
        sampler_name,
        scheduler,
        negative,
        batch,
        seed,
        dataset=None,
    ) -> io.NodeOutput:
        from ..adapters.metadata import with_provenance
        from ..jobs.distill.denoiser import Drawing

        drawing = Drawing(width, height, steps, cfg, sampler_name, scheduler, negative, batch)
        moved, first = to_adapter(lora), to_adapter(original)
        found = matched(
            moved, target, target_clip, first, source, source_clip, prompts.splitlines(), drawing, seed, dataset
        )
        adapter, text = strengthened(moved, found.value, host.HostBase(target, target_clip)), found.to_markdown()
        metadata = with_provenance(adapter.metadata, found.provenance(moved, first), changed=True)
        return io.NodeOutput(
            to_state(replace(adapter, metadata=metadata)), found.value, found.residual, text, ui={"text": (text,)}
        )


def matched(lora, target, target_clip, original, source, source_clip, prompts, drawing, seed, dataset=None):
    """The Strength of an adapter on the target; a few pictures are drawn where no dataset is given."""
    from ..jobs.distill.denoiser import Teacher
    from ..jobs.distill.generate import Generation, generate
    from ..jobs.distill.strength import match_strength
    from .host.denoiser import HostDenoiser

    progress = host.Progress(spoken=True)
    with learning():
        conditionings: dict = {}
        adapted = with_loras(source, source_clip, None, [(original, 1.0, 1.0)], conditionings)
        teacher = Teacher(HostDenoiser(source, source_clip, conditionings=conditionings), [adapted])
        theirs = HostDenoiser(target, target_clip, conditionings=conditionings)
        if dataset is None:
            few = Generation(count=16, seed=seed, drawing=drawing, least_action=0.0)
            lines = [line for line in prompts if line.strip()] or own_prompts(original)
            dataset = generate(teacher, theirs, lines, few, progress=progress)
        state = fitting(lora, host.HostBase(target, target_clip))

        def at(strength: float) -> HostDenoiser:
            model, clip = host.apply(target, target_clip, state, strength, strength)
            return HostDenoiser(model, clip, label=f"{theirs.label} at {strength:.2f}", conditionings=conditionings)

        return match_strength(teacher, theirs, at, dataset, batch=drawing.batch, seed=seed, progress=progress)


def own_prompts(adapter) -> list[str]:
    """A few prompts from an adapter's own tags.

    Raises:
        SettingsError: it has none.
    """
    from ..jobs.distill.prompts import PromptSettings, synthesize

    return synthesize(PromptSettings(adapter=adapter, count=8)).lines
