"""``lora-graft recipe``: a shelf described once in a file, carried out here or on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import Engines, Work
from ..untrusted import visible
from .engines import Address, EngineOption, Gpus, Jobs, device_for, engine_of
from .guard import FAILED, INTERRUPTED, cleanly
from .menus import Device, EngineName
from .options import Debug, DeviceOption
from .progress import progress
from .screen import console

if TYPE_CHECKING:
    from ..shelf.estimate import Estimate
    from ..shelf.run import Summary


@cleanly
def recipe(
    file: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to make of what; see above.")],
    engine: EngineOption = EngineName[Engines.engine],
    address: Address = None,
    gpus_per_task: Gpus = Engines.gpus_per_task,
    jobs: Jobs = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything, try the first items aside, and say what all will take. Writes nothing."
        ),
    ] = False,
    device: DeviceOption = Device[Work.device],
    debug: Debug = False,
) -> None:
    """Transfer, distil and merge a whole shelf as a recipe says.

    \b
    The recipe in short (names start from its own folder):
      output: moved
      bases: {old: OLD_BASE, new: NEW_BASE}
      transfers:
        - {loras: loras/*.safetensors, source: old, targets: [new], methods: [copy, lora-x]}
      distillations:
        - {loras: styles/*.safetensors, source: old, targets: [new], prompts: prompts.txt, steps: 50}
      merges:
        - {name: mix, loras: [A.safetensors, {file: B.safetensors, strength: 0.5}], method: ties}

    All of it is checked before anything runs. Nothing is overwritten. OUTPUT/manifest.jsonl records what is done and
    what failed; the same call goes on from there, on any machine or cluster that has these folders.

    `lora-graft RECIPE.yaml` does the same.
    """
    where = engine_of(engine, address, gpus_per_task, jobs)

    from ..shelf.recipe import read

    asked = read(file, device=device_for(engine, gpus_per_task, device))
    if dry_run:
        from ..shelf.estimate import estimate

        with progress("Trying the first items") as tell:
            return _show_estimates(estimate(asked, tell), asked.output)

    from ..shelf.run import carry_out
    from .shelf import bars

    try:
        with where as opened, bars() as phase:
            summary = carry_out(asked, opened, progress=phase, say=_say)
    except KeyboardInterrupt:
        print(f"Interrupted. What is in {asked.output} is whole; the same call goes on from here.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _show(summary, asked.output)
    if summary.failed:
        raise typer.Exit(FAILED)


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


def _show(summary: Summary, folder: Path) -> None:
    out = console()
    before = f", {len(summary.present)} were there already" if summary.present else ""
    out.print(f"{len(summary.done)} made{before}, {len(summary.failed)} failed.")
    for output, why in summary.failed.items():
        out.print(f"Failed: {output.relative_to(folder)}: {why}")
    out.print(f"Results: {folder}")


def _show_estimates(estimates: list[Estimate], folder: Path) -> None:
    """A line for each stage, and their sum."""
    out = console()
    for one in estimates:
        line = f"{one.title}: {one.outputs} in all, {one.to_do} to do"
        if one.measured:
            others = f", each other {_seconds(one.other)}" if one.measured > 1 else ""
            line += f"; first {_seconds(one.first)}{others}, all {_seconds(one.seconds)}"
            line += f"; read {_bytes(one.read)}, written {_bytes(one.written)}"
        elif one.to_do:
            line += "; not measured"
        out.print(line)
        if one.error:
            out.print(f"  one that was tried failed: {one.error}")
    seconds, tried = sum(one.seconds for one in estimates), sum(one.measured for one in estimates)
    out.print(
        f"An estimate from {tried} items that were done on this machine just now, in processor time: "
        f"{_seconds(seconds)} in all, divided by the number of processes if nothing waits for disks."
    )
    if any(one.to_do and not one.measured for one in estimates):
        out.print("Stages without a measured item are not in it.")
    out.print(f"Nothing was written to {folder}.")


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
