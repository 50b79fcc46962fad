"""``lora-graft transfer``: an adapter for another base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .guard import cleanly
from .options import (
    BASE_HELP,
    Debug,
    Device,
    DeviceOption,
    DtypeOption,
    Energy,
    Force,
    K,
    Layout,
    Lora,
    MethodName,
    NoCache,
    Plot,
    Share,
    cache_of,
    device_of,
    png,
    size_of,
    suffixed,
)
from .output import claim, staged
from .progress import progress


@cleanly
def transfer(
    lora: Lora,
    source: Annotated[Path, typer.Option("--source", metavar="BASE", help=f"The adapter's own {BASE_HELP}")],
    target: Annotated[Path, typer.Option("--target", metavar="BASE", help=f"The new {BASE_HELP}")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.safetensors", help="File to write.")],
    method: Annotated[
        MethodName, typer.Option("--method", help="How to transfer; auto chooses and says why.")
    ] = MethodName.auto,
    k_share: Share = None,
    k: K = None,
    energy: Energy = None,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0, max=1, help="Mean Φ under which a weight is copied (ProLoRA: 0.8)."),
    ] = 0.0,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Cut the result to this rank.")] = None,
    strength: Annotated[float, typer.Option("--strength", help="Multiply the update by this.")] = 1.0,
    dtype: DtypeOption = None,
    layout: Annotated[Layout, typer.Option("--layout", help="Key names to write.")] = Layout.same,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="OUT.json|OUT.md", help="Write the report as JSON or Markdown.")
    ] = None,
    plot: Plot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    device: DeviceOption = Device.auto,
    no_cache: NoCache = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Make an adapter for another base from the two bases' weights alone, and report what survived."""
    size = size_of(k_share, k, energy)
    suffixed(output, "--output", (".safetensors",))
    report, plot = suffixed(report, "--report", (".json", ".md")), png(plot)
    claim(output, report, plot, force=force, inputs=(lora, source, target))

    from .. import adapters
    from ..bases import open_base
    from ..jobs.transfer import TransferSettings
    from ..jobs.transfer import transfer as run

    adapter, here, there = adapters.read(lora), open_base(source), open_base(target)
    settings = TransferSettings(method=method.value, size=size, threshold=threshold, rank=rank, strength=strength)
    with progress("Transferring") as tell:
        result = run(adapter, here, there, settings, progress=tell, cache=cache_of(no_cache), device=device_of(device))
    files = {}
    if report:
        markdown = report.suffix.lower() == ".md"
        files[report] = (result.report.to_markdown() if markdown else result.report.to_json()).encode()
    if plot:
        from .. import plots

        files[plot] = plots.encode(plots.heatmap(result.report))
    with staged(files):
        adapters.write(
            result.adapter,
            output,
            dtype=dtype.value if dtype else None,
            layout=layout.value,
            names=there.names,
            overwrite=force,
            provenance=result.provenance,
        )
    if as_json:
        typer.echo(result.report.to_json())
    else:
        from .screen import show_report

        show_report(result.report, [output, *files])
