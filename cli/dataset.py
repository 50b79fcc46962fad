"""``lora-graft dataset``: draw what a diffusion model is taught from, without ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import Dataset, Drawing, Effort, Pipelines, Prompts, Work
from .drawing import (
    Cfg,
    Count,
    EffortOption,
    GuardShare,
    Height,
    LeastAction,
    Loras,
    Negative,
    OffloadOption,
    PrecisionOption,
    PromptFile,
    SeedFile,
    Source,
    SourceParts,
    TargetParts,
    Width,
    data_of,
    drawn_with,
    models_of,
)
from .guard import cleanly
from .menus import Device, Offload, Precision
from .menus import Effort as EffortMenu
from .options import Debug, DeviceOption, Force, Output
from .output import outputs
from .progress import progress


@cleanly
def dataset(
    loras: Loras,
    source: Source,
    output: Output,
    target: Annotated[
        Path | None,
        typer.Option("--target", metavar="BASE", help="The new base, which draws the other half of the pictures."),
    ] = None,
    source_parts: SourceParts = None,
    target_parts: TargetParts = None,
    prompts: PromptFile = None,
    seeds: SeedFile = None,
    effort: EffortOption = EffortMenu[Effort.effort],
    count: Count = Dataset.count,
    width: Width = None,
    height: Height = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help=f"Sampling steps. Default: {Drawing.steps}.")] = (
        None
    ),
    cfg: Cfg = None,
    negative: Negative = Pipelines.negative,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help=f"Pictures at a time. Default: {Drawing.batch}.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first picture.")] = Dataset.seed,
    least_action: LeastAction = Dataset.least_action,
    guard_share: GuardShare = Prompts.guard_share,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="OUT.md", help="Write what was drawn and kept, as Markdown.")
    ] = None,
    precision: PrecisionOption = Precision[Pipelines.precision],
    offload: OffloadOption = Offload[Pipelines.offload],
    device: DeviceOption = Device[Work.device],
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Draw what `lora-graft distill` learns from, and save it: the same file as the node Save Dataset writes."""
    from .merge import weighted

    if report is not None and report.suffix.lower() != ".md":
        raise typer.BadParameter("must end in .md", param_hint="--report")
    wanted = [weighted(text) for text in loras]
    inputs = (*(path for path, *_ in wanted), source, target, prompts, seeds)
    asked = outputs(output, report=report, force=force, inputs=inputs)

    from ..io.outputs import staged
    from ..jobs.distill.dataset import require_samples, save
    from ..jobs.distill.generate import account
    from ..pipelines.job import draw

    how = dict(count=count, seed=seed, least_action=least_action, guard_share=guard_share, effort=effort.value)
    data = data_of(prompts, seeds, **how)
    models, given = models_of(
        wanted, source, target, source_parts, target_parts, device=device, precision=precision, offload=offload
    )
    data = drawn_with(data, models, width, height, steps, cfg, negative, batch)
    with progress("Drawing") as tell:
        made = draw(models, given, data, tell)
    text = account(made)
    with staged({path: text.encode() for path in asked.texts}):
        save(made, output, overwrite=force)
    from .screen import console

    out = console()
    out.print(text.split("\n\n| ")[0])
    for path in (output, *asked.texts):
        out.print(f"Wrote {path}")
    require_samples(made)
