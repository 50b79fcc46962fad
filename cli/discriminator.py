"""``lora-graft discriminator``: what a LoRA's real pictures look like, in a file beside the LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..untrusted import visible
from .guard import cleanly
from .options import Debug, Force, Output
from .output import outputs
from .progress import progress

_PICTURES = "png, jpg and webp"


@cleanly
def discriminator(
    real: Annotated[
        Path,
        typer.Option("--real", metavar="FOLDER", help=f"Real pictures of what the LoRA makes: {_PICTURES}, 5 to 20."),
    ],
    generated: Annotated[
        Path,
        typer.Option(
            "--generated",
            metavar="FOLDER",
            help="Pictures of the plain base, of other seeds and prompts than will be judged: 30 or more.",
        ),
    ],
    output: Output,
    lora: Annotated[
        Path | None, typer.Option("--lora", metavar="LORA", help="The LoRA it belongs to; its hash goes into the file.")
    ] = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Train a discriminator on two folders of pictures, by their pixels; ComfyUI's Load Discriminator reads it.

    It sees colours, edges and where they are. One that sees content needs a CLIP vision model: the node Train
    Discriminator takes one.
    """
    asked = outputs(output, force=force, inputs=(lora,))

    from .. import adapters
    from ..jobs.distill.discriminator import report, save
    from ..jobs.distill.picture_discriminator import train_on_folders

    whose = {} if lora is None else {"lora": lora.stem, "lora_digest": adapters.read(lora).digest}
    with progress("Looking at pictures") as tell:
        found = train_on_folders(real, generated, progress=tell, **whose)
    save(found, output, overwrite=asked.force)
    typer.echo(visible(report(found).rstrip()))
    typer.echo(visible(f"Wrote {output}"))
