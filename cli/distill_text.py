"""``lora-graft distill`` for language models: from answers to prompts."""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path
from types import SimpleNamespace

import typer

from ..choices import Learning, Pipelines, Text
from .guard import INTERRUPTED
from .options import device_of
from .output import outputs, publish
from .progress import progress

LARGE = 1_000_000_000  # numbers in a language model from which its blocks are computed twice to save memory


def distill(asked: SimpleNamespace) -> None:
    """The command with its options, by their names."""
    loras = _adapters(asked)
    discriminators = [_discriminator(asked, lora) for lora in loras]
    seeds = [asked.seeds or _seeds(asked, lora) for lora in loras]
    inputs = (*loras, asked.source, asked.target, asked.prompts, *seeds, asked.generator, *discriminators)
    files = outputs(asked.output, report=asked.report, plot=asked.plot, force=asked.force, inputs=inputs, folder=True)

    from ..jobs.distill.schedule import Training
    from ..language.examples import read_examples, read_prompts
    from ..language.job import teach
    from ..language.run import TextRun
    from ..language.settings import TextData, TextDistillation
    from ..language.several import teach_several

    training = Training(
        asked.steps or Learning.steps,
        asked.learning_rate,
        asked.schedule.value,
        asked.batch,
        asked.accumulation or Learning.accumulation,
        asked.checkpointing.value == "on" or asked.checkpointing.value == "auto" and _large(asked.target),
        asked.seed,
    )
    settings = TextDistillation(
        asked.objective.value,
        asked.kind.value,
        asked.rank,
        asked.alpha,
        asked.modules.value,
        Text.start_from if asked.start_from == Pipelines.start_from else asked.start_from,
        asked.effect,
        asked.max_new_tokens,
        asked.stop.replace("\\n", "\n"),
        asked.chat,
        training,
    )
    teachers = [
        (
            lora,
            TextData(
                seeds=read_examples(file) if file else (),
                prompts=read_prompts(asked.prompts) if asked.prompts else (),
                generator=asked.generator,
                discriminator=discriminator,
                samples=asked.samples,
                seed=asked.seed,
                temperature=asked.temperature,
                least_likeness=asked.least_likeness,
                guard_share=asked.guard_share,
            ),
        )
        for lora, file, discriminator in zip(loras, seeds, discriminators, strict=True)
    ]
    output = asked.output
    name = output.stem if output.suffix.lower() == ".safetensors" else output.name
    run = TextRun(output.with_name(name + ".unfinished"), asked.checkpoint_every)
    try:
        with progress("Distilling") as tell:
            how = dict(run=run, progress=tell, device=device_of(asked.device), precision=asked.precision.value)
            if len(teachers) > 1:
                result = teach_several(teachers, asked.source, asked.target, settings, **how)
            else:
                (lora, data), *_ = teachers
                result = teach(lora, asked.source, asked.target, data, settings, **how)
    except KeyboardInterrupt:
        if asked.debug or not run.kept:
            raise
        best = f"The best so far is in {run.best}. " if run.best else ""
        print(
            f"Interrupted. {best}What was written and learnt is in {run.folder}; the same call goes on from here.",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    dtype = asked.dtype.value if asked.dtype else None
    how = dict(dtype=dtype, provenance=result.provenance)
    written = publish(files, result.report, result.adapter, drawing="loss_curve", **how)
    run.finished()
    from .screen import show

    show(result.report, written, as_json=asked.as_json)


def _large(target: Path) -> bool:
    """Whether blocks are computed twice to save memory."""
    from ..bases import open_base

    return sum(prod(shape) for shape in open_base(target).weights().values()) > LARGE


def _adapters(asked: SimpleNamespace) -> list[Path]:
    from .merge import weighted

    given = [weighted(text) for text in asked.loras]
    if any(strengths != [1.0, 1.0] for _, *strengths in given):
        raise typer.BadParameter(
            "an adapter of a language model has no strength here; --effect is that of --objective difference",
            param_hint="LORA",
        )
    found = [path for path, *_ in given]
    for name in ("seeds", "prompts", "discriminator") if len(found) > 1 else ():
        if getattr(asked, name) is not None:
            raise typer.BadParameter(
                f"several adapters have each its own: put {Text.shipped_seeds} into every adapter's folder, and its "
                f"{Text.shipped} where there is one",
                param_hint=f"--{name}",
            )
    return found


def _discriminator(asked: SimpleNamespace, lora: Path) -> Path | None:
    """The one asked for, or the one that came with the adapter."""
    if asked.unfiltered:
        if asked.discriminator is not None:
            raise typer.BadParameter("asks for no discriminator, and one is given", param_hint="--unfiltered")
        return None
    shipped = lora / Text.shipped
    return asked.discriminator or (shipped if shipped.is_dir() else None)


def _seeds(asked: SimpleNamespace, lora: Path) -> Path | None:
    """The examples that came with the adapter, where nothing else is given to make prompts from."""
    shipped = lora / Text.shipped_seeds
    if asked.prompts is not None:
        return None
    if not shipped.is_file() and len(asked.loras) > 1:
        raise typer.BadParameter(
            f"{lora.name} holds no {Text.shipped_seeds}: with several adapters each needs its examples there",
            param_hint="LORA",
        )
    return shipped if shipped.is_file() else None
