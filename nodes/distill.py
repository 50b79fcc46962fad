"""Distill Adapter: the target base is taught what LoRAs do on the source, without real data, or what pictures show."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from comfy_api.latest import io

from ..choices import Distill, Effort
from . import host, merging
from .common import CATEGORY, fitting, menu, picture, shown, to_adapter, to_state
from .distilling import (
    DATASET,
    comparable,
    decoded,
    effort_input,
    given,
    learning,
    nothing_to_show,
    previewer,
    teacher_inputs,
    with_loras,
)

LARGE = 200e6  # numbers in a network from which its blocks are computed twice to save memory


class DistillAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        from ..kernels.distill.students import STUDENTS

        return io.Schema(
            node_id="LoraGraft_Distill",
            display_name="Distill Adapter",
            category=CATEGORY,
            description="Teaches the target base what LoRAs do on the source, from synthetic data, where weights alone "
            "cannot carry it over: other seed, width, architecture or latent space. Several LoRAs become one.",
            search_aliases=["distill lora", "trans-lora", "train lora", "convert lora", "merge effects", "port lora"],
            is_output_node=True,
            inputs=[
                DATASET.Input("dataset", tooltip="From Synthetic Dataset, Picture Dataset or Load Dataset."),
                *teacher_inputs(optional=True),
                io.Model.Input("target", tooltip="The base model that learns. It is not changed."),
                io.Clip.Input("target_clip", tooltip="The target's text encoder."),
                io.Combo.Input(
                    "objective",
                    options=list(Distill.objectives),
                    default=Distill.objective,
                    tooltip="difference: learn what the LoRAs add, and keep the target's own look; output: learn the "
                    "source's answers as they are; samples: learn from pictures, for another latent space or your own "
                    "pictures. auto: difference where both bases share a latent space, else samples.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(Distill.kinds),
                    default=Distill.kind,
                    tooltip="Kind of the new adapter. " + menu(STUDENTS),
                ),
                io.Int.Input("rank", default=Distill.rank, min=1, max=1024, tooltip="Rank of the new adapter."),
                io.Float.Input(
                    "alpha",
                    default=Distill.alpha or 0.0,
                    min=0.0,
                    max=4096.0,
                    step=0.5,
                    advanced=True,
                    tooltip="Alpha of the new adapter; 0 takes the rank.",
                ),
                io.Combo.Input(
                    "modules",
                    options=list(Distill.module_sets),
                    default=Distill.modules,
                    advanced=True,
                    tooltip="Which weights learn. auto: those the LoRAs change, where the target has them; else "
                    "attention and feed-forward.",
                ),
                io.Int.Input(
                    "steps",
                    default=Distill.steps or 0,
                    min=0,
                    max=100000,
                    tooltip="Steps; 0: as the effort says. From a transferred LoRA 20 to 50 do, else 80 to 200.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=Distill.learning_rate,
                    min=0.0,
                    max=1.0,
                    step=0.00001,
                    advanced=True,
                    tooltip="Highest learning rate; 0 chooses one from the number of weights.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(Distill.schedules),
                    default=Distill.schedule,
                    advanced=True,
                    tooltip="How the learning rate falls, after a warm-up over a tenth of the steps.",
                ),
                io.Int.Input(
                    "batch",
                    default=Distill.batch,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip="Noisy latents at a time: as many as memory holds.",
                ),
                io.Int.Input(
                    "accumulation",
                    default=Distill.accumulation or 0,
                    min=0,
                    max=1024,
                    advanced=True,
                    tooltip="Batches for one step; 0: as many as a step needs, 16 noisy latents or, of steps that are "
                    "set and in the effort thorough, 32.",
                ),
                io.Combo.Input(
                    "checkpointing",
                    options=["auto", "on", "off"],
                    default="auto",
                    advanced=True,
                    tooltip="Compute blocks twice instead of keeping them in memory. auto: for large networks.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(Distill.dtypes),
                    default=Distill.dtype,
                    advanced=True,
                    tooltip="Number format of the computation; auto: the host's, and bf16 or fp32 where that is fp16. "
                    "What is learnt is always kept in fp32.",
                ),
                io.Float.Input(
                    "effect",
                    default=Distill.effect,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Factor on what the LoRAs do, beside their own strengths.",
                ),
                io.Boolean.Input(
                    "match_effect",
                    default=Distill.match_effect,
                    advanced=True,
                    tooltip="At the end, draw with the new adapter and scale it until it moves the target's pictures "
                    "as far as the LoRAs moved the source's. For targets far from the source.",
                ),
                io.Int.Input(
                    "lessons",
                    default=Distill.noisy_latents or 0,
                    min=0,
                    max=1000000,
                    advanced=True,
                    tooltip="Noisy latents to learn from, computed once; 0: as the effort says, of steps that are set "
                    "enough, at most 1024.",
                ),
                io.Int.Input(
                    "checkpoint_every",
                    default=25,
                    min=0,
                    max=100000,
                    advanced=True,
                    tooltip="Steps between checkpoints in output/lora_graft_checkpoints. The same run, queued again "
                    "after a crash or a cancel, goes on there. 0 keeps one only when the run is broken off.",
                ),
                io.Int.Input(
                    "pictures",
                    default=4,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Pictures a row in the contact sheet; 0 for none. Needs a VAE.",
                ),
                io.Int.Input(
                    "seed",
                    default=Distill.seed,
                    min=0,
                    max=2**31 - 1,
                    advanced=True,
                    control_after_generate="fixed",
                    tooltip="Seed of everything random. The same seed, the same adapter.",
                ),
                io.LoraModel.Input(
                    "start_from",
                    optional=True,
                    tooltip="An adapter of the target to begin with, a transferred one for example.",
                ),
                io.Vae.Input(
                    "source_vae",
                    optional=True,
                    tooltip="The source's VAE. Needed by the objective samples, and for pictures.",
                ),
                io.Vae.Input(
                    "target_vae",
                    optional=True,
                    tooltip="The target's VAE. Needed by the objective samples, and for pictures.",
                ),
                io.Int.Input(
                    "guards",
                    default=Distill.guards,
                    min=0,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="Prompts without the trigger words on which the LoRA and the new adapter are compared at "
                    "the end, so that the report can tell what else the new adapter changes; 0 for none.",
                ),
                effort_input("steps, accumulation and lessons"),
            ],
            outputs=[
                io.LoraModel.Output("lora", display_name="lora", tooltip="The new adapter, for the target base."),
                io.Model.Output("model", display_name="model", tooltip="The target with the new adapter on it."),
                io.Image.Output(
                    "loss_curve",
                    display_name="loss curve",
                    tooltip="Loss, and the share of the effect on noisy latents not learnt from.",
                ),
                io.Image.Output(
                    "contact_sheet",
                    display_name="contact sheet",
                    tooltip="The source with its LoRAs, the target before and after.",
                ),
                io.String.Output("report", display_name="report", tooltip="Sentences, then tables, in Markdown."),
                io.Float.Output(
                    "share",
                    display_name="share",
                    tooltip="Share of the effect reproduced on noisy latents not learnt from; 1 is all.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        dataset,
        strengths,
        target,
        target_clip,
        objective,
        kind,
        rank,
        alpha,
        modules,
        steps,
        learning_rate,
        schedule,
        batch,
        accumulation,
        checkpointing,
        dtype,
        effect,
        match_effect,
        lessons,
        checkpoint_every,
        pictures,
        seed,
        source=None,
        source_clip=None,
        loras=None,
        start_from=None,
        source_vae=None,
        target_vae=None,
        guards=Distill.guards,
        effort=Effort.effort,
    ) -> io.NodeOutput:
        from ..adapters.metadata import with_provenance
        from ..jobs.distill.checkpoint import FileKeeper, identity
        from ..jobs.distill.distill import Distillation, distill
        from ..jobs.distill.effort import planned
        from .host.denoiser import HostDenoiser, training_dtype

        loras, progress = _loras(dataset, source, loras, strengths), host.Progress(spoken=True)
        marks = comparable(source_vae, target_vae)
        _check_pictures(dataset, target_vae)
        dtype = training_dtype(target) if dtype == "auto" else dtype
        with learning():
            conditionings: dict = {}
            teacher = _teacher(source, source_clip, marks[0], loras, conditionings)
            student = HostDenoiser(target, target_clip, marks[1], dtype=dtype, conditionings=conditionings)
            size = sum(torch.Size(shape).numel() for shape in student.base.weights().values())
            plan = planned(
                effort,
                steps=steps or None,
                batch=batch,
                accumulation=accumulation or None,
                noisy_latents=lessons or None,
                learning_rate=learning_rate,
                schedule=schedule,
                checkpointing=checkpointing == "on" or (checkpointing == "auto" and size > LARGE),
                seed=seed,
            )
            settings = Distillation(
                objective,
                kind,
                rank,
                alpha or None,
                modules,
                effect,
                match_effect,
                plan.noisy_latents,
                plan.training,
                guards,
                plan.effort,
            )
            warm_start = None if start_from is None else to_adapter(start_from)
            who = [
                *([] if teacher is None else _marks(teacher.base)),
                *_marks(student),
                dataset.digest,
                dtype,
                *([a.digest, m, c] for a, m, c in loras),
                warm_start and warm_start.digest,
            ]
            keeper = FileKeeper(host.checkpoint_folder(), identity(settings.stored(), *who), checkpoint_every)
            result = distill(
                dataset,
                teacher,
                student,
                [adapter for adapter, _, _ in loras],
                settings,
                warm_start=warm_start,
                translate=_translation(source_vae, target_vae),
                keeper=keeper,
                progress=progress,
                show=previewer(student, progress),
                salvage=_salvage,
                device=student.patcher.load_device,
            )
            if keeper.trouble:
                result.report.notes.append(keeper.trouble)
            adapter = replace(
                result.adapter, metadata=with_provenance(result.adapter.metadata, result.provenance, changed=True)
            )
        try:
            model, _ = host.apply(target, None, fitting(adapter, host.HostBase(target)), 1.0, 1.0)
            shown_aside = result.side_effects and (result.side_effects.before, result.side_effects.after)
            sheet = _before_and_after(
                dataset, student, model, target_clip, source_vae, target_vae, pictures, shown_aside, progress
            )
        except BaseException:
            _salvage(adapter, result.report.steps)
            raise
        keeper.forget()
        text, curve = result.report.to_markdown(), picture(result.report, "loss_curve")
        return io.NodeOutput(
            to_state(adapter),
            model,
            curve,
            sheet,
            text,
            result.report.explained,
            ui=shown(text, sheet if pictures else curve, cls),
        )


def _loras(dataset, source, loras, strengths) -> list[tuple]:
    """The teacher's LoRAs; none where the dataset's pictures need no teacher and there is none.

    Raises:
        SettingsError: a dataset of a teacher without it, or LoRAs without their base.
    """
    from ..errors import SettingsError

    connected = merging.gather(loras, strengths, None)
    if source is None and (connected or dataset.has_teacher):
        what = "The LoRAs have no base here" if connected else "This dataset was drawn with a teacher, which is missing"
        raise SettingsError(
            what,
            hint="Connect source, source_clip and the LoRAs. Only a dataset of Picture Dataset needs none of them.",
        )
    return connected if connected or not dataset.has_teacher else given(loras, strengths)


def _teacher(source, clip, vae, loras: list[tuple], conditionings: dict):
    """The source and the source with each LoRA; None without LoRAs."""
    from ..jobs.distill.denoiser import Teacher
    from .host.denoiser import HostDenoiser

    if not loras:
        return None
    adapted = [with_loras(source, clip, vae, [lora], conditionings) for lora in loras]
    return Teacher(HostDenoiser(source, clip, vae, conditionings=conditionings), adapted)


def _check_pictures(dataset, target_vae) -> None:
    """Refuses pictures that another VAE than the target's has encoded.

    Raises:
        SettingsError: it has.
    """
    from ..errors import SettingsError
    from .host.denoiser import mark_of

    if not dataset.has_teacher and target_vae is not None and dataset.info.get("vae") != mark_of(target_vae):
        raise SettingsError(
            "The pictures were encoded by another VAE than the target's",
            hint="Connect one VAE to Picture Dataset and to target_vae.",
        )


def _marks(denoiser) -> list:
    """What of a model decides a run's result: weights, text encoder, latent space, noise levels."""
    both = host.HostBase(denoiser.patcher, denoiser.clip)
    return [both.fingerprint, denoiser.space, denoiser.sigmas(torch.tensor([0.1, 0.5, 0.9])).tolist()]


def _translation(source_vae, target_vae):
    """Latents of the source's space → of the target's, through pictures; None where a VAE is missing."""
    if source_vae is None or target_vae is None:
        return None

    def translate(latents: torch.Tensor) -> torch.Tensor:
        found = []
        for latent in latents:
            host.check_cancelled()
            with torch.no_grad():
                found.append(target_vae.encode(decoded(source_vae, latent[None])[..., :3]).float().cpu())
        return torch.cat(found)

    return translate


def _salvage(adapter, step: int) -> None:
    """Keep what a run had reached when it was broken off, as a new file in output/loras."""
    from .. import adapters
    from ..errors import GraftError
    from .save_lora import saved

    try:
        path = saved(host.save_folder("output"), f"distilled_until_step_{step}", lambda p: adapters.write(adapter, p))
        logging.info("Distill Adapter: the best of %d steps is in %s", step, path)
    except (GraftError, OSError) as problem:  # what ended the run is what the user must read
        logging.error("Distill Adapter: the best of %d steps could not be saved: %s", step, problem)


def _before_and_after(dataset, before, model, clip, source_vae, target_vae, count, aside, progress) -> torch.Tensor:
    """The contact sheet as an IMAGE: teacher or pictures, target, target with the new adapter, and the last two for
    guard prompts (`aside`: their latents); white where there is no VAE.
    """
    from ..jobs.distill.effect import draw_again
    from .host.denoiser import HostDenoiser

    vae = target_vae if target_vae is not None else source_vae
    count = min(count, len(dataset.prompts))
    if vae is None or not count:
        return nothing_to_show()
    own = dataset.target[:count] if dataset.target is not None else draw_again(before, dataset, range(count), progress)
    taught = HostDenoiser(model, clip, label="target with the new adapter", conditionings=before.conditionings)
    after = draw_again(taught, dataset, range(count), progress)
    label, eye = ("source\nwith its LoRAs", source_vae) if dataset.has_teacher else ("pictures", vae)
    rows = [(label, decoded(eye, dataset.taught[:count]))] if eye is not None else []
    rows += [("target", decoded(vae, own)), ("target with the\nnew adapter", decoded(vae, after))]
    if aside:
        labels = ("other prompts:\ntarget", "other prompts:\nnew adapter")
        rows += [(label, decoded(vae, latents[:count])) for label, latents in zip(labels, aside, strict=True)]
    return picture([(label, images.numpy()) for label, images in rows], "contact_sheet")
