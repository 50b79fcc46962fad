"""``lora-graft discriminator``: what a LoRA's real pictures, or real prompts, look like, kept beside the LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import Distill, Text, Work
from ..untrusted import visible
from .guard import cleanly
from .menus import Device
from .options import Debug, DeviceOption, Force, Output, device_of, only_for
from .output import outputs
from .progress import progress

_PICTURES = "png, jpg and webp"
_OF_TEXT = ("count", "temperature", "seed", "chat", "device")


@cleanly
def discriminator(
    ctx: typer.Context,
    real: Annotated[
        Path,
        typer.Option(
            "--real",
            metavar="FOLDER|FILE",
            help=f"Real pictures of what the LoRA makes: {_PICTURES}, 5 to 20. Of text: JSON lines, 20 or more.",
        ),
    ],
    output: Output,
    generated: Annotated[
        Path | None,
        typer.Option(
            "--generated",
            metavar="FOLDER|FILE",
            help="Pictures of the plain base, of other seeds and prompts than will be judged: 30 or more. Of text: "
            "prompts, one a line; where none are given the model writes them.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="MODEL", help="Text: the LoRA's own base, a transformers folder."),
    ] = None,
    lora: Annotated[
        Path | None, typer.Option("--lora", metavar="LORA", help="The LoRA it belongs to; its hash goes into the file.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=2, help="Text: prompts that the model writes.")] = Text.count,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Text: of its writing; higher is more varied.")
    ] = Text.temperature,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Text: of everything random.")] = Distill.seed,
    chat: Annotated[
        bool, typer.Option("--chat", help="Text: put prompts into the tokenizer's chat template.")
    ] = Text.chat,
    device: DeviceOption = Device[Work.device],
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Train a discriminator, on two folders of pictures or on examples of a language model's task.

    That of pictures sees colours, edges and where they are; ComfyUI's Load Discriminator reads it. One that sees
    content needs a CLIP vision model: the node Train Discriminator takes one. With --model it is the language model
    with a LoRA of its own, in a folder: lora-graft distill filters prompts with it.
    """
    asked = outputs(output, force=force, inputs=(real, generated, model, lora), folder=model is not None)
    if model is not None:
        if output.suffix.lower() == ".safetensors":
            raise typer.BadParameter("a discriminator of text is a folder", param_hint="--output")
        how = dict(count=count, temperature=temperature, seed=seed, chat=chat, device=device_of(device))
        _of_text(model, real, generated, output, force, lora=lora, **how)
        return
    only_for(ctx, _OF_TEXT, "language models", "no --model is given")
    if generated is None:
        raise typer.BadParameter("needed for pictures", param_hint="--generated")

    from .. import adapters
    from ..jobs.distill.discriminator import report, save
    from ..jobs.distill.picture_discriminator import train_on_folders

    whose = {} if lora is None else {"lora": lora.stem, "lora_digest": adapters.read(lora).digest}
    with progress("Looking at pictures") as tell:
        found = train_on_folders(real, generated, progress=tell, **whose)
    save(found, output, overwrite=asked.force)
    typer.echo(visible(report(found).rstrip()))
    typer.echo(visible(f"Wrote {output}"))


def _of_text(model: Path, real: Path, generated: Path | None, output: Path, force: bool, **how) -> None:
    from ..language.discriminator import report, save
    from ..language.examples import read_examples, read_prompts
    from ..language.fit import fit_discriminator

    with progress("Learning") as tell:
        written = read_prompts(generated) if generated else ()
        found = fit_discriminator(model, read_examples(real), written, progress=tell, **how)
    save(found, output, overwrite=force)
    typer.echo(visible(report(found).rstrip()))
    typer.echo(visible(f"Wrote {output}"))
