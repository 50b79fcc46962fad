"""What ``lora-graft distill`` and ``lora-graft dataset`` share: options on models and pictures, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import Drawing
from .menus import Effort, Offload, Precision
from .options import device_of

MODEL_HELP = "a diffusers folder, or a .safetensors file with --{0}-parts"
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
    Path, typer.Option("--source", metavar="BASE", help=f"The LoRAs' own base: {MODEL_HELP.format('source')}.")
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
EffortOption = Annotated[
    Effort,
    typer.Option(
        "--effort",
        help="How much it may cost: quick, for a start from a copy, normal, or thorough. Sets how many pictures are "
        "drawn and how long is learnt; options that are given win.",
    ),
]
Count = Annotated[
    int | None,
    typer.Option("--count", min=2, help="Pictures in all, half of them the target's own. Default: as the effort says."),
]
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
        "quarter where the LoRA's file tells trigger words, else none. Of text: share of what is learnt that the "
        "target writes by itself, so that it keeps what it knows; default a half.",
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Number type of the computation; auto: bf16 on a GPU, fp32 on a CPU.")
]
OffloadOption = Annotated[
    Offload,
    typer.Option("--offload", help="Keep only the model at work on the GPU; auto: where all together do not fit."),
]


def models_of(wanted, source, target, source_parts, target_parts, *, device, precision, offload):
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


def data_of(prompts: Path | None, seeds: Path | None, **how):
    """What to draw from."""
    from ..jobs.distill.prompt_file import read_lines
    from ..pipelines.job import Data

    return Data(read_lines(prompts) if prompts else (), read_lines(seeds, "seed prompts") if seeds else (), **how)


def drawn_with(data, models, width, height, steps, cfg, negative, batch):
    """The data with how it is drawn: as asked, else as suits the models."""
    from dataclasses import replace

    more = {"width": width, "height": height, "steps": steps, "cfg": cfg, "batch": batch, "negative": negative}
    return replace(data, drawing=models.drawn_as(**more))
