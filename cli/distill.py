"""``lora-graft distill`` and ``lora-graft dataset``: teach a base what LoRAs do on another, without ComfyUI."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..choices import Dataset, Distill, Drawing, File, Pipelines, Prompts, Work
from .guard import INTERRUPTED, cleanly
from .menus import Checkpointing, Device, Dtype, Kind, Layout, Modules, Objective, Offload, Precision, Schedule
from .options import AsJson, Debug, DeviceOption, Force, Output, Report, device_of
from .output import outputs, publish
from .progress import progress

MODEL_HELP = "a diffusers folder, or a .safetensors file with --{}-parts."
PARTS_HELP = (
    "For a single file: a diffusers folder of the same kind of model, for tokenizers, configurations and what "
    "the file lacks. Default: the other base, if that is a folder."
)
Loras = Annotated[
    list[str],
    typer.Argument(
        metavar="LORA[:STRENGTH[:CLIP]]...",
        help="Adapter files, each with its strength as in a loader. Several become one adapter.",
    ),
]
Source = Annotated[
    Path, typer.Option("--source", metavar="BASE", help=f"The LoRAs' own base: {MODEL_HELP.format('source')}")
]
SourceParts = Annotated[Path | None, typer.Option("--source-parts", metavar="FOLDER", help=PARTS_HELP)]
TargetParts = Annotated[Path | None, typer.Option("--target-parts", metavar="FOLDER", help="The same for the target.")]
PromptFile = Annotated[
    Path | None, typer.Option("--prompts", metavar="FILE", help="Prompts to draw from, one a line, used in turn.")
]
SeedFile = Annotated[
    Path | None,
    typer.Option(
        "--seeds",
        metavar="FILE",
        help="Instead: a few prompts, one a line, from which and from the LoRA's training tags prompts are made. "
        "Default: the tags alone.",
    ),
]
Count = Annotated[int, typer.Option("--count", min=2, help="Pictures in all, half of them the target's own.")]
Width = Annotated[int | None, typer.Option("--width", help="Pixels. Default: 512 for SD 1 and 2, 1024 for others.")]
Height = Annotated[int | None, typer.Option("--height", help="Pixels. Default: as --width.")]
Cfg = Annotated[float | None, typer.Option("--cfg", min=0, help=f"Guidance. Default: {Drawing.cfg:g}, for Flux 1.")]
Negative = Annotated[str, typer.Option("--negative", help="Negative prompt of all pictures.")]
LeastAction = Annotated[
    float,
    typer.Option(
        "--least-action",
        min=0,
        help="Pictures that the LoRAs change less are left out; 1 is the distance between two seeds.",
    ),
]
GuardShare = Annotated[
    float | None,
    typer.Option(
        "--guard-share",
        min=0,
        max=0.9,
        help="Share of the made prompts that are ordinary ones, so that other pictures are left alone. Default: a "
        "quarter where the LoRA's file tells trigger words, else none.",
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Number type of the computation; auto: bf16 on a GPU, fp32 on a CPU.")
]
OffloadOption = Annotated[
    Offload,
    typer.Option("--offload", help="Keep only the model at work on the GPU; auto: where all together do not fit."),
]


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

    data = _data(prompts, seeds, count=count, seed=seed, least_action=least_action, guard_share=guard_share)
    models, given = _models(
        wanted, source, target, source_parts, target_parts, device=device, precision=precision, offload=offload
    )
    data = _drawn(data, models, width, height, steps, cfg, negative, batch)
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


@cleanly
def distill(
    loras: Loras,
    source: Source,
    target: Annotated[
        Path, typer.Option("--target", metavar="BASE", help=f"The base that learns: {MODEL_HELP.format('target')}")
    ],
    output: Output,
    source_parts: SourceParts = None,
    target_parts: TargetParts = None,
    prompts: PromptFile = None,
    seeds: SeedFile = None,
    drawn: Annotated[
        Path | None,
        typer.Option("--dataset", metavar="FILE", help="Drawn already, by lora-graft dataset or in ComfyUI."),
    ] = None,
    objective: Annotated[
        Objective,
        typer.Option(
            "--objective",
            help="difference: learn what the LoRAs add; output: the source's answers as they are; samples: from "
            "pictures, for another latent space. auto chooses between the first and the last.",
        ),
    ] = Objective[Distill.objective],
    kind: Annotated[Kind, typer.Option("--kind", help="Kind of the new adapter.")] = Kind[Distill.kind],
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the new adapter.")] = Distill.rank,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Alpha of it. Default: the rank.")] = Distill.alpha,
    modules: Annotated[
        Modules,
        typer.Option("--modules", help="Which weights learn; auto: those that the LoRAs change."),
    ] = Modules[Distill.modules],
    start_from: Annotated[
        str,
        typer.Option(
            "--start-from",
            metavar="none|copy|FILE",
            help="copy: the LoRA itself, between related bases; FILE: an adapter of the target.",
        ),
    ] = Pipelines.start_from,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="From a copy 25 to 50 do, from nothing 50 to 200.")
    ] = Distill.steps,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=0, help="Highest rate; 0 chooses one.")
    ] = Distill.learning_rate,
    schedule: Annotated[Schedule, typer.Option("--schedule", help="How the rate falls.")] = Schedule[Distill.schedule],
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Noisy latents at a time: as many as memory holds.")
    ] = Distill.batch,
    accumulation: Annotated[
        int, typer.Option("--accumulation", min=1, help="Batches for one step.")
    ] = Distill.accumulation,
    checkpointing: Annotated[
        Checkpointing,
        typer.Option("--checkpointing", help="Compute blocks twice to save memory; auto: for large networks."),
    ] = Checkpointing[Pipelines.checkpointing],
    effect: Annotated[float, typer.Option("--effect", help="Factor on what the LoRAs do.")] = Distill.effect,
    match_effect: Annotated[
        bool,
        typer.Option("--match-effect", help="Scale the result until it moves pictures as far as the LoRAs do."),
    ] = Distill.match_effect,
    noisy_latents: Annotated[
        int | None,
        typer.Option("--noisy-latents", min=1, help="How many to learn from. Default: enough, at most 1024."),
    ] = Distill.noisy_latents,
    guards: Annotated[
        int,
        typer.Option(
            "--guards", min=0, help="Prompts without the trigger words on which side effects are measured; 0 for none."
        ),
    ] = Distill.guards,
    count: Count = Dataset.count,
    width: Width = None,
    height: Height = None,
    draw_steps: Annotated[
        int | None, typer.Option("--draw-steps", min=1, help=f"Sampling steps. Default: {Drawing.steps}.")
    ] = None,
    cfg: Cfg = None,
    negative: Negative = Pipelines.negative,
    least_action: LeastAction = Dataset.least_action,
    guard_share: GuardShare = Prompts.guard_share,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of everything random: the same seed, the same file.")
    ] = Distill.seed,
    precision: PrecisionOption = Precision[Pipelines.precision],
    offload: OffloadOption = Offload[Pipelines.offload],
    device: DeviceOption = Device[Work.device],
    checkpoint_every: Annotated[
        int,
        typer.Option(
            "--checkpoint-every",
            min=0,
            help="Steps between checkpoints, in the folder OUT.unfinished; 0: only when the run is broken off.",
        ),
    ] = Pipelines.checkpoint_every,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="Number type to write. Default: fp32, as it was learnt.")
    ] = None,
    layout: Annotated[Layout, typer.Option("--layout", help="Key names to write; same: the first LoRA's.")] = Layout[
        File.layout
    ],
    report: Report = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw the learning curve.")] = None,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Teach a base what LoRAs do on another, from synthetic pictures, where weights alone cannot carry it over.

    Ctrl-C keeps the best so far, and the same call goes on where a broken run stopped.
    """
    from .merge import weighted

    wanted = [weighted(text) for text in loras]
    if drawn is not None and (prompts or seeds):
        raise typer.BadParameter("has its prompts inside; leave out --prompts and --seeds", param_hint="--dataset")
    begin = Path(start_from) if start_from not in Pipelines.starts else None
    inputs = (*(path for path, *_ in wanted), source, target, prompts, seeds, drawn, begin)
    asked = outputs(output, report=report, plot=plot, force=force, inputs=inputs)

    from .. import adapters
    from ..jobs.distill.dataset import load
    from ..jobs.distill.distill import Distillation
    from ..jobs.distill.schedule import Training
    from ..pipelines.job import Run, layout_of, teach

    training = Training(steps, learning_rate, schedule.value, batch, accumulation, seed=seed)
    settings = Distillation(
        objective.value, kind.value, rank, alpha, modules.value, effect, match_effect, noisy_latents, training, guards
    )
    how = dict(count=count, seed=seed, least_action=least_action, guard_share=guard_share)
    data = load(drawn) if drawn else _data(prompts, seeds, **how)
    start = adapters.read(begin) if begin else start_from
    run = Run(output.with_name(output.stem + ".unfinished"), checkpoint_every)
    models, given = _models(
        wanted, source, target, source_parts, target_parts, device=device, precision=precision, offload=offload
    )
    if drawn is None:
        data = _drawn(data, models, width, height, draw_steps, cfg, negative, None)
    try:
        with progress("Distilling") as tell:
            result = teach(
                models,
                given,
                settings,
                dataset=data,
                start_from=start,
                checkpointing=checkpointing.value,
                run=run,
                progress=tell,
                device=device_of(device),
            )
    except KeyboardInterrupt:
        if debug or run.best is None:
            raise
        print(
            f"Interrupted in step {run.step}. The best so far is in {run.best}; the same call goes on from here.",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    how = dict(
        dtype=dtype.value if dtype else None,
        layout=layout_of(layout.value, [adapter for adapter, _, _ in given]),
        names=models.target.base.names,
        provenance=result.provenance,
    )
    written = publish(asked, result.report, result.adapter, drawing="loss_curve", **how)
    run.finished()
    from .screen import show

    show(result.report, written, as_json=as_json)


def _models(wanted, source, target, source_parts, target_parts, *, device, precision, offload):
    """(the models, the adapters with their strengths)."""
    from .. import adapters
    from ..pipelines.models import open_models

    given = [(adapters.read(path), model, clip) for path, model, clip in wanted]
    models = open_models(
        given,
        source,
        target,
        source_parts=source_parts,
        target_parts=target_parts,
        device=device_of(device),
        precision=precision.value,
        one_at_a_time={"auto": None, "on": True, "off": False}[offload.value],
    )
    return models, given


def _data(prompts: Path | None, seeds: Path | None, **how):
    """What to draw from."""
    from ..pipelines.job import Data

    return Data(_lines(prompts, "prompts"), _lines(seeds, "seed prompts"), **how)


def _lines(file: Path | None, what: str) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        SettingsError: there is none, or the file is no text.
    """
    if file is None:
        return []
    from ..errors import SettingsError

    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SettingsError("The file is not a text in UTF-8", file=file, hint=f"Give {what}, one a line.") from problem
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SettingsError(f"The file holds no {what}", file=file, hint="Write some, one a line.")
    return lines


def _drawn(data, models, width, height, steps, cfg, negative, batch):
    """The data with how it is drawn: as asked, else as suits the models."""
    from dataclasses import replace

    more = {"width": width, "height": height or width, "steps": steps, "cfg": cfg, "batch": batch}
    chosen = {name: value for name, value in more.items() if value is not None}
    return replace(data, drawing=replace(models.drawing, negative=negative, **chosen))
