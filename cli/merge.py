"""``lora-graft merge``: several LoRAs become one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ..untrusted import visible
from .guard import cleanly
from .menus import KERNELS, MERGE_FOLDER, constant, menu, method_names, readers
from .options import BASE_HELP, Debug, Device, DeviceOption, DtypeOption, Force, Layout, device_of, png, suffixed
from .output import claim, staged
from .progress import progress

MergeMethod = menu("MergeMethod", method_names(MERGE_FOLDER))
Units = menu("Units", constant(KERNELS / "units.py", "UNITS"))
RANK_WORDS = ("auto", "max", "sum")

Report = Annotated[
    Path | None, typer.Option("--report", metavar="OUT.json|OUT.md", help="Write the report as JSON or Markdown.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Base = Annotated[
    Path | None, typer.Option("--base", metavar="BASE", help=f"For DoRA and the like, and odd names: the {BASE_HELP}")
]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT.safetensors", help="File to write.")]
LayoutOption = Annotated[Layout, typer.Option("--layout", help="Key names to write; same: the first LoRA's.")]


@cleanly
def merge(
    loras: Annotated[
        list[str],
        typer.Argument(
            metavar="LORA[:STRENGTH[:CLIP]]...",
            help="Adapter files, each with its strength as in a loader (default 1, negatives allowed) and, if it "
            "differs, the strength on the text encoder.",
        ),
    ],
    output: Output,
    method: Annotated[MergeMethod, typer.Option("--method", help="How to merge.")] = MergeMethod.lego,
    rank: Annotated[
        str,
        typer.Option(
            "--rank",
            metavar="N|auto|max|sum",
            help="Rank of the result: a number; max, the largest of the LoRAs; sum, all together; auto, per module "
            "what keeps --energy of the sum. concat and linear are cut by a number only.",
        ),
    ] = "max",
    units: Annotated[
        Units, typer.Option("--units", help="lego: form of the units; paper is LoRA-LEGO as printed.")
    ] = Units.canonical,
    density: Annotated[
        float, typer.Option("--density", help=f"Share of entries kept, above 0 up to 1: {readers('density')}.")
    ] = 0.5,
    energy: Annotated[float, typer.Option("--energy", help="Rank auto: share of the sum's energy to keep.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", help=f"Of k-means and of random masks: {readers('seed')}.")] = 0,
    parameter_reweighting: Annotated[bool, typer.Option(help="lego: restore the size of clusters' means.")] = True,
    output_reweighting: Annotated[bool, typer.Option(help="lego: scale means to one LoRA's size.")] = True,
    dtype: DtypeOption = None,
    layout: LayoutOption = Layout.same,
    base: Base = None,
    report: Report = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="OUT.png", help="Draw, block by block, how many clusters mix several LoRAs."),
    ] = None,
    as_json: AsJson = False,
    device: DeviceOption = Device.auto,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Merge LoRAs of any ranks, formats and trainers into one. A single LoRA is pruned to the rank."""
    wanted = [weighted(text) for text in loras]
    chosen = rank_of(rank)
    outputs(output, report, plot, force=force, inputs=(*(path for path, *_ in wanted), base))

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
    publish(result, output, layout, opened, report, plot, as_json=as_json, force=force)


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
    """A rank as a number, or one of RANK_WORDS; a usage error otherwise."""
    if text in RANK_WORDS:
        return text
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) < 1:
        raise typer.BadParameter(f"{text} is not a number from 1, {', '.join(RANK_WORDS)}", param_hint="--rank")
    return int(text)


def outputs(output: Path, report: Path | None, plot: Path | None, *, force: bool, inputs) -> None:
    """Check names and places of everything to write before any work is done."""
    suffixed(output, "--output", (".safetensors",))
    claim(output, suffixed(report, "--report", (".json", ".md")), png(plot), force=force, inputs=inputs)


def publish(
    result, output: Path, layout: Layout, base, report: Path | None, plot: Path | None, *, as_json: bool, force: bool
) -> None:
    """Write the adapter, its report and its picture, all or none, and say what was done."""
    from .. import adapters
    from ..jobs.convert import names_of

    names = None
    if layout is not Layout.same:
        names = base.names if base else names_of(result.adapter)
    files = {}
    if report:
        markdown = report.suffix.lower() == ".md"
        files[report] = (result.report.to_markdown() if markdown else result.report.to_json()).encode()
    if plot:
        from .. import plots

        files[plot] = plots.encode(plots.clusters(result.report))
    with staged(files):
        adapters.write(
            result.adapter, output, layout=layout.value, names=names, overwrite=force, provenance=result.provenance
        )
    if as_json:
        typer.echo(visible(result.report.to_json()))
    else:
        from .screen import show_merge

        show_merge(result.report, [output, *files])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
