"""``lora-graft merge``: several LoRAs become one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import File, Merge, Work
from ..untrusted import visible
from .guard import cleanly
from .menus import Device, Layout, MergeMethod, Units
from .options import BASE_HELP, AsJson, Debug, DeviceOption, DtypeOption, Force, Output, Report, device_of
from .output import Outputs, from_peft, outputs, publish
from .progress import progress

if TYPE_CHECKING:
    from ..bases import Base
    from ..jobs.merge.merge import MergeResult

BaseOption = Annotated[
    Path | None, typer.Option("--base", metavar="BASE", help=f"For DoRA and the like, and odd names: the {BASE_HELP}")
]
LayoutOption = Annotated[Layout, typer.Option("--layout", help="Key names to write; same: the first LoRA's.")]


@cleanly
def merge(
    loras: Annotated[
        list[str],
        typer.Argument(
            metavar="LORA[:STRENGTH[:CLIP]]...",
            help="Adapter files or PEFT folders, each with its strength as in a loader (default 1, negatives allowed) "
            "and, if it differs, the strength on the text encoder.",
        ),
    ],
    output: Output,
    method: Annotated[MergeMethod, typer.Option("--method", help="How to merge.")] = MergeMethod[Merge.method],
    rank: Annotated[
        str,
        typer.Option(
            "--rank",
            metavar="|".join(("N", *Merge.ranks)),
            help="Rank of the result: a number; max, the largest of the LoRAs; sum, all together; auto, per module "
            "what keeps --energy of the sum. concat and linear are cut by a number only.",
        ),
    ] = Merge.rank,
    units: Annotated[
        Units, typer.Option("--units", help="lego: form of the units; paper is LoRA-LEGO as printed.")
    ] = Units[Merge.units],
    density: Annotated[
        float,
        typer.Option(
            "--density", help=f"Share of entries kept, above 0 up to 1: {', '.join(Merge.readers['density'])}."
        ),
    ] = Merge.density,
    energy: Annotated[float, typer.Option("--energy", help="Rank auto: share of the sum's energy to keep.")] = (
        Merge.energy
    ),
    seed: Annotated[
        int, typer.Option("--seed", help=f"Of k-means and of random masks: {', '.join(Merge.readers['seed'])}.")
    ] = (Merge.seed),
    parameter_reweighting: Annotated[bool, typer.Option(help="lego: restore the size of clusters' means.")] = (
        Merge.parameter_reweighting
    ),
    output_reweighting: Annotated[
        bool, typer.Option(help="lego: scale means to one LoRA's size.")
    ] = Merge.output_reweighting,
    dtype: DtypeOption = None,
    layout: LayoutOption = Layout[File.layout],
    base: BaseOption = None,
    report: Report = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="OUT.png", help="Draw, block by block, how many clusters mix several LoRAs."),
    ] = None,
    as_json: AsJson = False,
    device: DeviceOption = Device[Work.device],
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Merge LoRAs of any ranks, formats and trainers into one. A single LoRA is pruned to the rank."""
    wanted = [weighted(text) for text in loras]
    chosen = rank_of(rank)
    files = [path for path, *_ in wanted]
    peft = from_peft(*files, layout=layout.value)
    asked = outputs(output, report=report, plot=plot, force=force, inputs=(*files, base), folder=peft)

    from .. import adapters
    from ..bases import open_base
    from ..jobs.merge.merge import MergeSettings
    from ..jobs.merge.merge import merge as run

    settings = MergeSettings(
        method=method.value,
        rank=chosen,
        units=units.value,
        seed=seed,
        density=density,
        energy=energy,
        parameter_reweighting=parameter_reweighting,
        output_reweighting=output_reweighting,
        dtype=dtype.value if dtype else None,
    )
    opened = open_base(base) if base else None
    given = [(adapters.read(path), model, clip) for path, model, clip in wanted]
    with progress("Merging") as tell:
        result = run(given, settings, base=opened, progress=tell, device=device_of(device))
    publish_merged(asked, result, layout, opened, as_json=as_json)


def weighted(text: str) -> tuple[Path, float, float]:
    """(file, strength on the model, strength on the text encoder) from ``FILE``, ``FILE:0.8`` or ``FILE:0.8:0.5``.

    A colon belongs to the file name when the file exists under that name, or when no number follows it
    (``C:\\loras\\a.safetensors``).
    """
    path, strengths = text, []
    while len(strengths) < 2 and not Path(path).exists():
        front, colon, tail = path.rpartition(":")
        number = _number(tail)
        if not colon or number is None or not front:
            break
        path, strengths = front, [number, *strengths]
    if ".safetensors:" in path.lower() and not Path(path).exists():
        raise typer.BadParameter(visible(f"what follows the last colon of {text} is not a strength"), param_hint="LORA")
    if not all(map(math.isfinite, strengths)):
        raise typer.BadParameter(visible(f"the strength in {text} must be a finite number"), param_hint="LORA")
    model = strengths[0] if strengths else 1.0
    return Path(path), model, strengths[1] if len(strengths) > 1 else model


def rank_of(text: str) -> int | str:
    """A rank as a number, or one of ``choices.Merge.ranks``; a usage error otherwise."""
    if text in Merge.ranks:
        return text
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) < 1:
        raise typer.BadParameter(f"{text} is not a number from 1, {', '.join(Merge.ranks)}", param_hint="--rank")
    return int(text)


def publish_merged(asked: Outputs, result: MergeResult, layout: Layout, base: Base | None, *, as_json: bool) -> None:
    """Write the adapter in a layout, its report and its picture, and say what was done."""
    from ..jobs.names import names_to_write
    from .screen import show

    names = names_to_write(result.adapter, layout.value, base)
    how = dict(layout=layout.value, names=names, provenance=result.provenance)
    show(result.report, publish(asked, result.report, result.adapter, drawing="clusters", **how), as_json=as_json)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
