"""``lora-graft transfer``: an adapter for another base model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import GraftError
from ..untrusted import visible
from .guard import FAILED, INTERRUPTED, cleanly
from .menus import menu
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

Reports = menu("Reports", ("md", "json"))


@cleanly
def transfer(
    source: Annotated[Path, typer.Option("--source", metavar="BASE", help=f"The adapter's own {BASE_HELP}")],
    target: Annotated[Path, typer.Option("--target", metavar="BASE", help=f"The new {BASE_HELP}")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT.safetensors|FOLDER", help="File to write; with --all a folder."),
    ],
    lora: Annotated[Path | None, typer.Argument(metavar="LORA", help="Adapter file (.safetensors).")] = None,
    every: Annotated[
        list[str] | None,
        typer.Option(
            "--all",
            metavar="'LORAS/*.safetensors'",
            help="Instead of LORA: every file that matches (in quotes; ** for subfolders). Files that are in FOLDER "
            "already are left out, so that the same call goes on after a stop.",
        ),
    ] = None,
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
    reports: Annotated[Reports | None, typer.Option("--reports", help="With --all: a report beside each file.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="With --all: processes at a time. Default: one per core up to 4; GPU: 1."),
    ] = None,
    device: DeviceOption = Device.auto,
    no_cache: NoCache = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Make an adapter for another base from the two bases' weights alone, and report what survived."""
    size = size_of(k_share, k, energy)
    if (lora is None) == (not every):
        raise typer.BadParameter("give either a LORA or --all", param_hint="LORA")
    if every:
        single = [name for name, given in (("--report", report), ("--plot", plot), ("--json", as_json)) if given]
        if single:
            raise typer.BadParameter(f"{single[0]} is for a single LORA; see --reports", param_hint="--all")
        return _shelf(
            every,
            source,
            target,
            output,
            reports,
            jobs,
            no_cache,
            device,
            dict(method=method.value, size=size, threshold=threshold, rank=rank, strength=strength),
            dict(dtype=dtype.value if dtype else None, layout=layout.value, force=force),
        )
    if reports or jobs:
        raise typer.BadParameter("is for --all", param_hint="--reports" if reports else "--jobs")
    suffixed(output, "--output", (".safetensors",))
    report, plot = suffixed(report, "--report", (".json", ".md")), png(plot)
    claim(output, report, plot, force=force, inputs=(lora, source, target))

    from .. import adapters
    from ..bases import open_base
    from ..jobs.transfer.transfer import TransferSettings
    from ..jobs.transfer.transfer import transfer as run

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
        typer.echo(visible(result.report.to_json()))
    else:
        from .screen import show_report

        show_report(result.report, [output, *files])


def _shelf(patterns, source, target, folder, reports, jobs, no_cache, device, settings: dict, writing: dict) -> None:
    """Transfer many files; the exit status tells whether all of them are there."""
    from .shelf import MOST, Order, find, transfer_all

    if folder.is_file():
        raise GraftError("with --all the output is a folder, and this is a file", file=folder)
    pairs = find(patterns, folder)

    from ..bases import open_base
    from ..jobs.transfer.transfer import TransferSettings

    for base in (source, target):
        open_base(base)  # what is wrong with it is told before any process starts
    where, cores = device_of(device), os.cpu_count() or 1
    jobs = jobs or (1 if where == "cuda" else min(MOST, cores))
    order = Order(
        source,
        target,
        TransferSettings(**settings),
        where,
        report=f".{reports.value}" if reports else None,
        threads=max(1, cores // jobs),
        **writing,
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shelf = transfer_all(pairs, order, jobs, keep=not no_cache)
    except KeyboardInterrupt:
        print(f"Interrupted. What is in {folder} is whole; the same call goes on from here.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None

    from .screen import show_shelf

    show_shelf(shelf, folder)
    if shelf.failed:
        raise typer.Exit(FAILED)
