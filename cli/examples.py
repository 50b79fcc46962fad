"""``lora-graft examples``: the small models that the workflows of this pack run on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .guard import cleanly
from .options import Debug

PACK = Path(__file__).absolute().parents[1]


@cleanly
def examples(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[MODELS]", help="ComfyUI's models folder. A clone in custom_nodes finds it by itself."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the example models (300 MB) where ComfyUI finds them, for the workflows in its template browser; beside an
    input folder also ten pictures to train on."""
    from ..errors import GraftError

    if folder is None and PACK.parent.name == "custom_nodes":
        folder = PACK.parents[1] / "models"
    if folder is None:
        raise GraftError("which models folder?", hint="Give ComfyUI's: lora-graft examples ComfyUI/models")
    if not folder.is_dir():
        raise GraftError("there is no such folder", file=folder, hint="Give ComfyUI's models folder.")

    from ..family.materialize import example_pictures, materialize
    from ..kernels.threads import one_thread

    with one_thread():
        paths = materialize(folder)
    typer.echo(f"{len(paths)} example models are in {folder}.")
    if (inputs := folder.parent / "input").is_dir():
        typer.echo(f"{len(example_pictures(inputs))} pictures are in {inputs / 'family_stripes'}.")
    typer.echo("In ComfyUI press R, then open a workflow: Templates, LoRA-Graft.")
