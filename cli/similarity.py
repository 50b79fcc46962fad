"""``lora-graft similarity``: how much of two bases' leading directions agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..untrusted import visible
from .guard import cleanly
from .options import (
    BASE_HELP,
    Debug,
    Device,
    DeviceOption,
    Energy,
    Force,
    K,
    NoCache,
    Plot,
    Share,
    cache_of,
    device_of,
    png,
    size_of,
)
from .output import claim, staged
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
    device: DeviceOption = Device.auto,
    no_cache: NoCache = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Compare two bases weight by weight: do their leading singular subspaces agree beyond chance?"""
    size = size_of(k_share, k, energy)
    plot, out = png(plot), Path(json) if json and json != "-" else None
    claim(plot, out, force=force, inputs=(source, target, lora))

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
    files = {}
    if out:
        files[out] = report.to_json().encode()
    if plot:
        from .. import plots

        files[plot] = plots.encode(plots.heatmap(report))
    with staged(files):
        pass
    if json == "-":
        typer.echo(visible(report.to_json()))
    else:
        from .screen import show_report

        show_report(report, list(files))
