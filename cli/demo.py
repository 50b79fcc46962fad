"""``lora-graft demo``: the main job on the small models that come along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .guard import cleanly
from .options import Debug
from .progress import progress


@cleanly
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where to put it.")] = Path(
        "lora-graft-demo"
    ),
    debug: Debug = False,
) -> None:
    """Move a LoRA between two small trained models and draw the result: files, report and pictures in a folder."""
    from ..family.demo import run
    from .screen import show_demo

    with progress("Demo") as tell:
        made = run(output, progress=tell)
    show_demo(made)
