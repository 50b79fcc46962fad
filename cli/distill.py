"""``lora-graft distill``: teach a base what LoRAs do on another, without ComfyUI. The options, of pictures and text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from ..choices import Dataset, Distill, Drawing, Effort, File, Learning, Pipelines, Prompts, Text, Work
from .drawing import (
    MODEL_HELP,
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
    SourceParts,
    TargetParts,
    Width,
)
from .guard import cleanly
from .menus import Checkpointing, Device, Dtype, Kind, Layout, Modules, Objective, Offload, Precision, Schedule
from .menus import Effort as EffortMenu
from .options import AsJson, Debug, DeviceOption, Force, Output, Report, only_for

TeachersBase = Annotated[
    Path,
    typer.Option(
        "--source",
        metavar="BASE",
        help=f"The LoRAs' own base: {MODEL_HELP.format('source')}, or a transformers folder.",
    ),
]
PromptList = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="FILE", help="Prompts, one a line, used in turn; of text also JSON lines, each used once."
    ),
]
Seeds = Annotated[
    Path | None,
    typer.Option(
        "--seeds",
        metavar="FILE",
        help="Instead: a few prompts, one a line, from which and from the LoRA's training tags prompts are made. "
        "Default: the tags alone. Of text: JSON lines with a prompt and an answer each, which the generator is shown; "
        "by default, and for several adapters, the seeds.jsonl in each one's folder.",
    ),
]
OF_PICTURES = (
    *("source_parts", "target_parts", "drawn", "match_effect", "noisy_latents", "guards", "count", "width", "height"),
    "effort",
    *("draw_steps", "cfg", "negative", "least_action", "offload", "layout"),
)
OF_TEXT = (
    *("generator", "discriminator", "unfiltered", "samples", "temperature", "least_likeness", "max_new_tokens"),
    *("stop", "chat"),
)


@cleanly
def distill(
    ctx: typer.Context,
    loras: Loras,
    source: TeachersBase,
    target: Annotated[
        Path,
        typer.Option(
            "--target",
            metavar="BASE",
            help=f"The base that learns: {MODEL_HELP.format('target')}, or a transformers folder.",
        ),
    ],
    output: Output,
    source_parts: SourceParts = None,
    target_parts: TargetParts = None,
    prompts: PromptList = None,
    seeds: Seeds = None,
    drawn: Annotated[
        Path | None,
        typer.Option("--dataset", metavar="FILE", help="Drawn already, by lora-graft dataset or in ComfyUI."),
    ] = None,
    objective: Annotated[
        Objective,
        typer.Option(
            "--objective",
            help="difference: learn what the LoRAs add; output: the source's answers as they are; samples: from "
            "pictures, for another latent space. auto chooses between the first and the last. Of language models: "
            "answers (auto), or difference where the tokenizer is shared.",
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
            metavar="auto|none|copy|FILE",
            help="copy: the LoRA itself, between related bases; FILE: an adapter of the target; auto: a copy of one "
            "LoRA, unless the bases are strangers. Of text auto is none.",
        ),
    ] = Pipelines.start_from,
    effort: EffortOption = EffortMenu[Effort.effort],
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            help=f"Default: as the effort says; of text {Learning.steps}.",
        ),
    ] = Distill.steps,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=0, help="Highest rate; 0 chooses one.")
    ] = Distill.learning_rate,
    schedule: Annotated[Schedule, typer.Option("--schedule", help="How the rate falls.")] = Schedule[Distill.schedule],
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Noisy latents at a time: as many as memory holds.")
    ] = Distill.batch,
    accumulation: Annotated[
        int | None,
        typer.Option("--accumulation", min=1, help="Batches for one step. Default: as many as a step needs."),
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
        typer.Option(
            "--noisy-latents", min=1, help="How many to learn from. Default: as the effort says; with --steps enough."
        ),
    ] = Distill.noisy_latents,
    guards: Annotated[
        int,
        typer.Option(
            "--guards", min=0, help="Prompts without the trigger words on which side effects are measured; 0 for none."
        ),
    ] = Distill.guards,
    generator: Annotated[
        Path | None,
        typer.Option(
            "--generator",
            metavar="MODEL",
            help="Text: the language model that writes prompts like the seeds. Default: the target.",
        ),
    ] = None,
    discriminator: Annotated[
        Path | None,
        typer.Option(
            "--discriminator",
            metavar="FOLDER",
            help="Text: chooses among the prompts, from lora-graft discriminator. Default: the folder discriminator in "
            "the adapter's own, if there is one.",
        ),
    ] = None,
    unfiltered: Annotated[
        bool, typer.Option("--unfiltered", help="Text: take all prompts, also where there is a discriminator.")
    ] = False,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Text: prompts wanted.")] = Text.samples,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Text: of the generator; higher is more varied.")
    ] = Text.temperature,
    least_likeness: Annotated[
        float,
        typer.Option(
            "--least-likeness", min=0, max=1, help="Text: prompts to which the discriminator gives less are left out."
        ),
    ] = Text.least_likeness,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Text: longer answers are left out.")
    ] = Text.max_new_tokens,
    stop: Annotated[
        str,
        typer.Option(
            "--stop", metavar="TEXT", help=r"Text: what ends an answer beside the end of text; \n is a newline."
        ),
    ] = Text.stop,
    chat: Annotated[
        bool, typer.Option("--chat", help="Text: put prompts into the tokenizer's chat template.")
    ] = Text.chat,
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
    """Teach a base what LoRAs do on another, from synthetic data, where weights alone cannot carry it over.

    Diffusion models learn from pictures, language models from answers to prompts. Ctrl-C keeps the best so far, and
    the same call goes on where a broken run stopped.
    """
    asked = SimpleNamespace(**locals())
    from ..language.models import is_language_model

    if is_language_model(source):
        only_for(ctx, OF_PICTURES, "diffusion models", f"{source.name} is a language model")
        from .distill_text import distill as work
    else:
        only_for(ctx, OF_TEXT, "language models", f"{source.name} is none")
        from .distill_pictures import distill as work
    work(asked)
