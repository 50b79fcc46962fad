"""``lora-graft distill`` for diffusion models: from pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import typer

from ..choices import Pipelines
from .drawing import data_of, drawn_with, models_of
from .guard import INTERRUPTED
from .options import device_of
from .output import outputs, publish
from .progress import progress


def distill(asked: SimpleNamespace) -> None:
    """The command with its options, by their names."""
    from .merge import weighted

    wanted = [weighted(text) for text in asked.loras]
    if asked.drawn is not None and (asked.prompts or asked.seeds):
        raise typer.BadParameter("has its prompts inside; leave out --prompts and --seeds", param_hint="--dataset")
    begin = Path(asked.start_from) if asked.start_from not in Pipelines.starts else None
    inputs = (
        *(path for path, *_ in wanted),
        asked.source,
        asked.target,
        asked.prompts,
        asked.seeds,
        asked.drawn,
        begin,
    )
    files = outputs(asked.output, report=asked.report, plot=asked.plot, force=asked.force, inputs=inputs)

    from .. import adapters
    from ..jobs.distill.dataset import load
    from ..jobs.distill.distill import Distillation
    from ..jobs.distill.effort import planned
    from ..pipelines.job import Run, layout_of, teach

    effort = asked.effort.value
    plan = planned(
        effort,
        steps=asked.steps,
        batch=asked.batch,
        accumulation=asked.accumulation,
        noisy_latents=asked.noisy_latents,
        learning_rate=asked.learning_rate,
        schedule=asked.schedule.value,
        seed=asked.seed,
    )
    settings = Distillation(
        asked.objective.value,
        asked.kind.value,
        asked.rank,
        asked.alpha,
        asked.modules.value,
        asked.effect,
        asked.match_effect,
        plan.noisy_latents,
        plan.training,
        asked.guards,
        plan.effort,
    )
    how = dict(
        count=asked.count,
        seed=asked.seed,
        least_action=asked.least_action,
        guard_share=asked.guard_share,
        effort=effort,
    )
    data = load(asked.drawn) if asked.drawn else data_of(asked.prompts, asked.seeds, **how)
    start = adapters.read(begin) if begin else asked.start_from
    run = Run(asked.output.with_name(asked.output.stem + ".unfinished"), asked.checkpoint_every)
    models, given = models_of(
        wanted,
        asked.source,
        asked.target,
        asked.source_parts,
        asked.target_parts,
        device=asked.device,
        precision=asked.precision,
        offload=asked.offload,
    )
    if asked.drawn is None:
        data = drawn_with(data, models, asked.width, asked.height, asked.draw_steps, asked.cfg, asked.negative, None)
    try:
        with progress("Distilling") as tell:
            result = teach(
                models,
                given,
                settings,
                dataset=data,
                start_from=start,
                checkpointing=asked.checkpointing.value,
                run=run,
                progress=tell,
                device=device_of(asked.device),
            )
    except KeyboardInterrupt:
        if asked.debug or run.best is None:
            raise
        print(
            f"Interrupted in step {run.step}. The best so far is in {run.best}; the same call goes on from here.",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    how = dict(
        dtype=asked.dtype.value if asked.dtype else None,
        layout=layout_of(asked.layout.value, [adapter for adapter, _, _ in given]),
        names=models.target.base.names,
        provenance=result.provenance,
    )
    written = publish(files, result.report, result.adapter, drawing="loss_curve", **how)
    run.finished()
    from .screen import show

    show(result.report, written, as_json=asked.as_json)
