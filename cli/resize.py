"""``lora-graft resize``: one LoRA at a smaller rank."""

from __future__ import annotations

from typing import Annotated

import typer

from ..choices import File, Resize, Work
from .guard import cleanly
from .menus import Device, Layout
from .merge import BaseOption, LayoutOption, publish_merged
from .options import AsJson, Debug, DtypeOption, Force, Lora, Output, Report, device_of
from .output import from_peft, outputs
from .progress import progress


@cleanly
def resize(
    lora: Lora,
    output: Output,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="This rank for every module.")] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="Singular values above the largest divided by this.")
    ] = None,
    cumulative: Annotated[
        float | None, typer.Option("--cumulative", help="The fewest that add up to this share of all.")
    ] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="The fewest whose squares hold this share of the update's.")
    ] = None,
    frobenius: Annotated[
        float | None, typer.Option("--frobenius", help="The fewest that keep this share of the update's norm.")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max-rank", min=1, help="Largest rank whatever the rule says.")
    ] = Resize.max_rank,
    lego: Annotated[
        bool, typer.Option("--lego", help="With --rank: prune by LEGO's clusters instead of the SVD.")
    ] = False,
    dtype: DtypeOption = None,
    layout: LayoutOption = Layout[File.layout],
    base: BaseOption = None,
    report: Report = None,
    as_json: AsJson = False,
    device: Annotated[
        Device, typer.Option("--device", help="With --lego: where to compute; auto takes a GPU when there is one.")
    ] = Device[Work.device],
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Cut a LoRA to a smaller rank: a fixed one, or for each module the one that a rule chooses."""
    given = dict(zip(Resize.rules, (rank, ratio, cumulative, energy, frobenius), strict=True))
    chosen = [(rule, amount) for rule, amount in given.items() if amount is not None]
    if len(chosen) != 1:
        raise typer.BadParameter(f"choose one of {', '.join('--' + rule for rule in Resize.rules)}")
    if lego and rank is None:
        raise typer.BadParameter("--lego needs --rank")
    if device is not Device[Work.device] and not lego:
        raise typer.BadParameter("is for --lego", param_hint="--device")
    peft = from_peft(lora, layout=layout.value)
    asked = outputs(output, report=report, force=force, inputs=(lora, base), folder=peft)

    from .. import adapters
    from ..bases import open_base

    (rule, amount), number = chosen[0], dtype.value if dtype else None
    if lego:
        from ..jobs.merge.merge import MergeSettings, merge

        settings = MergeSettings("lego", amount, dtype=number)
    else:
        from ..jobs.merge.resize import ResizeSettings
        from ..jobs.merge.resize import resize as run

        settings = ResizeSettings(rule, amount, most, number)
    opened, adapter = open_base(base) if base else None, adapters.read(lora)
    with progress("Resizing") as tell:
        if lego:
            result = merge([(adapter, 1.0, 1.0)], settings, base=opened, progress=tell, device=device_of(device))
        else:
            result = run(adapter, settings, base=opened, progress=tell)
    publish_merged(asked, result, layout, opened, as_json=as_json)
