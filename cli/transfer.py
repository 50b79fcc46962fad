"""``lora-graft transfer``: an adapter for another base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..choices import Engines, File, Transfer, Work
from .engines import Address, EngineOption, Gpus, Jobs, device_for, engine_of
from .guard import cleanly
from .menus import BelowThreshold, Device, EngineName, Fill, Layout, MatchBlocks, Reports, TransferMethod
from .options import (
    BASE_HELP,
    AsJson,
    Debug,
    DeviceOption,
    DtypeOption,
    Energy,
    Force,
    K,
    NoCache,
    Plot,
    Report,
    Share,
    cache_of,
    device_of,
    size_of,
)
from .output import from_peft, outputs, publish
from .progress import progress


@cleanly
def transfer(
    source: Annotated[Path, typer.Option("--source", metavar="BASE", help=f"The adapter's own {BASE_HELP}")],
    target: Annotated[Path, typer.Option("--target", metavar="BASE", help=f"The new {BASE_HELP}")],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT.safetensors|FOLDER",
            help="File to write; a folder for PEFT adapters and with --all.",
        ),
    ],
    lora: Annotated[
        Path | None, typer.Argument(metavar="LORA", help="Adapter file (.safetensors) or PEFT folder.")
    ] = None,
    every: Annotated[
        list[str] | None,
        typer.Option(
            "--all",
            metavar="'LORAS/*.safetensors'",
            help="Instead of LORA: every file or PEFT folder that matches (in quotes; ** for subfolders). What is in "
            "FOLDER already is left out, so that the same call goes on after a stop.",
        ),
    ] = None,
    method: Annotated[
        TransferMethod, typer.Option("--method", help="How to transfer; auto chooses and says why.")
    ] = TransferMethod[Transfer.method],
    k_share: Share = None,
    k: K = None,
    energy: Energy = None,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0, max=1, help="Mean Φ from which a weight takes part (ProLoRA: 0.8)."),
    ] = Transfer.threshold,
    below_threshold: Annotated[
        BelowThreshold,
        typer.Option(
            "--below-threshold",
            help="What becomes of weights below: auto leaves them out with lora-x, as its paper does, and copies with "
            "the other methods.",
        ),
    ] = BelowThreshold[Transfer.below_threshold],
    match_blocks: Annotated[
        MatchBlocks,
        typer.Option(
            "--match-blocks",
            help="Where depths differ: auto takes the published pruning map, if there is one, before a search.",
        ),
    ] = MatchBlocks[Transfer.match_blocks],
    fill: Annotated[
        Fill,
        typer.Option(
            "--fill", help="Blocks of a deeper target that nothing feeds: nearest gives them the most similar's update."
        ),
    ] = Fill[Transfer.fill],
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Cut the result to this rank.")] = Transfer.rank,
    strength: Annotated[float, typer.Option("--strength", help="Multiply the update by this.")] = Transfer.strength,
    dtype: DtypeOption = None,
    layout: Annotated[Layout, typer.Option("--layout", help="Key names to write.")] = Layout[File.layout],
    report: Report = None,
    plot: Plot = None,
    as_json: AsJson = False,
    reports: Annotated[Reports | None, typer.Option("--reports", help="With --all: a report beside each file.")] = None,
    engine: EngineOption = EngineName[Engines.engine],
    address: Address = None,
    gpus_per_task: Gpus = Engines.gpus_per_task,
    jobs: Jobs = None,
    device: DeviceOption = Device[Work.device],
    no_cache: NoCache = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Make an adapter for another base from the two bases' weights alone, and report what survived."""
    chosen = {
        "method": method.value,
        "size": size_of(k_share, k, energy),
        "threshold": threshold,
        "below_threshold": below_threshold.value,
        "match_blocks": match_blocks.value,
        "fill": fill.value,
        "rank": rank,
        "strength": strength,
    }
    if (lora is None) == (not every):
        raise typer.BadParameter("give either a LORA or --all", param_hint="LORA")
    if every:
        single = [name for name, given in (("--report", report), ("--plot", plot), ("--json", as_json)) if given]
        if single:
            raise typer.BadParameter(f"{single[0]} is for a single LORA; see --reports", param_hint="--all")
        where = engine_of(engine, address, gpus_per_task, jobs)
        from ..jobs.transfer.transfer import TransferSettings
        from .shelf import transfer_shelf

        return transfer_shelf(
            every,
            output,
            engine=where,
            keep_cache=not no_cache,
            source=source,
            target=target,
            settings=TransferSettings(**chosen),
            dtype=dtype.value if dtype else None,
            layout=layout.value,
            report=f".{reports.value}" if reports else None,
            overwrite=force,
            device=device_for(engine, gpus_per_task, device),
        )
    for_many = {"--reports": reports, "--jobs": jobs, "--engine": engine.value != Engines.engine, "--address": address}
    for name, given in for_many.items():
        if given:
            raise typer.BadParameter("is for --all", param_hint=name)
    assert lora is not None
    peft = from_peft(lora, layout=layout.value)
    asked = outputs(output, report=report, plot=plot, force=force, inputs=(lora, source, target), folder=peft)

    from .. import adapters
    from ..bases import open_base
    from ..jobs.transfer.transfer import TransferSettings
    from ..jobs.transfer.transfer import transfer as run

    adapter, here, there = adapters.read(lora), open_base(source), open_base(target)
    settings = TransferSettings(**chosen)
    with progress("Transferring") as tell:
        result = run(adapter, here, there, settings, progress=tell, cache=cache_of(no_cache), device=device_of(device))
    from .screen import show

    how = dict(
        dtype=dtype.value if dtype else None, layout=layout.value, names=there.names, provenance=result.provenance
    )
    show(result.report, publish(asked, result.report, result.adapter, **how), as_json=as_json)
