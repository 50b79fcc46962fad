"""Synthetic Dataset: pictures of teacher and target, filtered by how strongly the LoRAs act on them."""

from __future__ import annotations

from comfy_api.latest import io

from ..choices import Dataset, Effort
from . import host
from .common import CATEGORY, shown
from .distilling import (
    DATASET,
    SHOWN,
    comparable,
    decoded,
    drawing_inputs,
    effort_input,
    given,
    learning,
    nothing_to_show,
    teacher_inputs,
    with_loras,
)
from .looking import DISCRIMINATOR, Eye, eye_for


class SyntheticDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_SyntheticDataset",
            display_name="Synthetic Dataset",
            category=CATEGORY,
            description="Draws what Distill Adapter learns from: pictures of the source with its LoRAs and of the "
            "target, and keeps those on which the LoRAs act (Trans-LoRA, arXiv 2405.17258). No real data is needed.",
            search_aliases=["distill dataset", "generate training data", "trans-lora", "synthetic data"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One prompt a line, used in turn. Connect Synthetic Prompts, or any node that makes text.",
                ),
                *teacher_inputs(),
                io.Int.Input(
                    "count",
                    default=Dataset.count or 0,
                    min=0,
                    max=100000,
                    tooltip="Samples in all: half from the source with its LoRAs, half from the target. 0: as the "
                    "effort says.",
                ),
                *drawing_inputs(),
                io.Int.Input(
                    "seed",
                    default=Dataset.seed,
                    min=0,
                    max=2**32 - 1,
                    advanced=True,
                    control_after_generate="fixed",
                    tooltip="Seed of the first picture; the others count on from it.",
                ),
                io.Float.Input(
                    "least_action",
                    default=Dataset.least_action,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Samples that the LoRAs change less are rejected. 1 is the distance between pictures of "
                    "two unrelated seeds; 0 keeps everything.",
                ),
                io.Float.Input(
                    "least_likeness",
                    default=Dataset.least_likeness,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="With references or a discriminator: samples less likely than this to be of their kind are "
                    "rejected.",
                ),
                io.Model.Input(
                    "target",
                    optional=True,
                    tooltip="The new base. With it half of the samples show its own look, which keeps that look.",
                ),
                io.Clip.Input("target_clip", optional=True, tooltip="The new base's text encoder."),
                io.Vae.Input("source_vae", optional=True, tooltip="The source's VAE, for previews and references."),
                io.Vae.Input(
                    "target_vae", optional=True, tooltip="The target's VAE, where it is another one than the source's."
                ),
                io.Image.Input(
                    "references",
                    optional=True,
                    tooltip="A few pictures of what the LoRA should make. Needs clip_vision and source_vae.",
                ),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="Looks at references and samples."),
                DISCRIMINATOR.Input(
                    "discriminator",
                    optional=True,
                    tooltip="Judges the samples as real pictures would, without any: from Train Discriminator or Load "
                    "Discriminator. Needs source_vae, and the clip_vision that it was trained with.",
                ),
                effort_input("count"),
            ],
            outputs=[
                DATASET.Output("dataset", display_name="dataset", tooltip="For Distill Adapter and Save Dataset."),
                io.Image.Output(
                    "previews",
                    display_name="previews",
                    tooltip="The first kept samples of the source with its LoRAs; white without its VAE.",
                ),
                io.String.Output("report", display_name="report", tooltip="What was kept and why, in Markdown."),
            ],
        )

    @classmethod
    def execute(
        cls,
        prompts,
        source,
        source_clip,
        strengths,
        count,
        width,
        height,
        steps,
        cfg,
        sampler_name,
        scheduler,
        negative,
        batch,
        seed,
        least_action,
        least_likeness,
        loras=None,
        target=None,
        target_clip=None,
        source_vae=None,
        target_vae=None,
        references=None,
        clip_vision=None,
        discriminator=None,
        effort=Effort.effort,
    ) -> io.NodeOutput:
        from ..errors import SettingsError
        from ..jobs.distill.denoiser import Drawing, Teacher
        from ..jobs.distill.effort import samples
        from ..jobs.distill.generate import Generation, account, generate
        from .host.denoiser import HostDenoiser

        drawing = Drawing(width, height, steps, cfg, sampler_name, scheduler, negative, batch)
        settings = Generation(samples(effort, count or None), seed, drawing, least_action, least_likeness)
        if references is not None and (clip_vision is None or source_vae is None):
            raise SettingsError(
                "References need something to look at them and at the samples",
                hint="Connect clip_vision and source_vae.",
            )
        marks = comparable(source_vae, target_vae)
        with learning():
            judge = None
            if discriminator is not None:
                view = eye_for(discriminator, clip_vision, source_vae)
                judge = discriminator, lambda latents: view.embed(decoded(source_vae, latents))
            conditionings: dict = {}
            teacher = Teacher(
                HostDenoiser(source, source_clip, marks[0], conditionings=conditionings),
                [with_loras(source, source_clip, marks[0], given(loras, strengths), conditionings)],
            )
            student = (
                None if target is None else HostDenoiser(target, target_clip, marks[1], conditionings=conditionings)
            )

            eye = Eye("clip_vision", clip_vision, height=height, width=width)
            known = None if references is None else eye.embed(references.clone())
            dataset = generate(
                teacher,
                student,
                prompts.splitlines(),
                settings,
                references=known,
                embed=lambda latents: eye.embed(decoded(source_vae, latents)),
                discriminator=judge,
                progress=host.Progress(spoken=True),
            )
            kept = dataset.kept_indices()[:SHOWN]
            pictures = nothing_to_show()
            if source_vae is not None and kept:
                pictures = decoded(source_vae, dataset.taught[kept])
        text = account(dataset)
        return io.NodeOutput(dataset, pictures, text, ui=shown(text, pictures, cls))
