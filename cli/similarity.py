"""``lora-graft similarity``: how much of two bases' leading directions agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import Work
from .guard import cleanly
from .menus import Device
from .options import (
    BASE_HELP,
    Debug,
    DeviceOption,
    Energy,
    Force,
    K,
    NoCache,
    Plot,
    Share,
    cache_of,
    device_of,
    size_of,
)
from .output import outputs, publish
from .progress import progress


@cleanly
def similarity(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help=f"Source {BASE_HELP}")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help=f"Target {BASE_HELP}")],
    lora: Annotated[Path | None, typer.Option("--lora", help="Only the weights that this adapter changes.")] = None,
    k_share: Share = None,
    k: K = None,
    energy: Energy = None,
    plot: Plot = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="OUT.json", help="Write the report as JSON; - prints it.")
    ] = None,
    device: DeviceOption = Device[Work.device],
    no_cache: NoCache = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Compare two bases weight by weight: do their leading singular subspaces agree beyond chance?"""
    size = size_of(k_share, k, energy)
    written = Path(json) if json and json != "-" else None
    asked = outputs(json=written, plot=plot, force=force, inputs=(source, target, lora))

    from .. import adapters
    from ..bases import open_base
    from ..jobs.transfer.compare import compare

    adapter = adapters.read(lora) if lora else None
    with progress("Comparing") as tell:
        report = compare(
            open_base(source),
            open_base(target),
            size,
            adapter=adapter,
            progress=tell,
            cache=cache_of(no_cache),
            device=device_of(device),
        )
    from .screen import show

    show(report, publish(asked, report), as_json=json == "-")
