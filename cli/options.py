"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import choices
from ..untrusted import visible
from .menus import Device, Dtype

if TYPE_CHECKING:
    from ..kernels.spectral import SubspaceSize

Lora = Annotated[Path, typer.Argument(metavar="LORA", help="Adapter file (.safetensors) or PEFT folder.")]
Share = Annotated[
    float | None,
    typer.Option(
        "--k-share",
        min=1e-6,
        max=1,
        help=f"Subspace size as a share of the smaller side. Default: {choices.Subspace.k_share:g}.",
    ),
]
K = Annotated[
    int | None, typer.Option("--k", min=1, help=f"Subspace size as a number (the paper: {choices.Subspace.k}).")
]
Energy = Annotated[
    float | None,
    typer.Option("--energy", min=1e-6, max=1, help="Subspace size as a share of the weight's squared norm."),
]
DtypeOption = Annotated[Dtype | None, typer.Option("--dtype", help="Number type to write. Default: the input's.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute; auto takes a GPU when there is one.")]
Output = Annotated[
    Path,
    typer.Option(
        "-o", "--output", metavar="OUT.safetensors|FOLDER", help="File to write; for PEFT adapters also a folder."
    ),
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="OUT.json|OUT.md", help="Write the report as JSON or Markdown.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Write a heat map by block and role.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither use nor fill the cache of subspaces.")]
Force = Annotated[bool, typer.Option("--force", help="Write over existing output files.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
BASE_HELP = "base model: a .safetensors or .gguf checkpoint, or a diffusers or transformers folder."


def size_of(share: float | None, k: int | None, energy: float | None) -> SubspaceSize:
    """The subspace size asked for; at most one of the three may be given."""
    given = [flag for flag, value in (("--k-share", share), ("--k", k), ("--energy", energy)) if value is not None]
    if len(given) > 1:
        raise typer.BadParameter(f"choose one of {' and '.join(given)}")
    from ..kernels.spectral import SubspaceSize

    return SubspaceSize(k=k, share=share, energy=energy)


def device_of(choice: Device) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        SettingsError: a GPU was asked for and there is none.
    """
    from ..jobs.device import device_of as work

    return work(choice.value, hint="Leave out --device, or say --device cpu.")


def cache_of(unwanted: bool):
    """The subspace cache on disk, or None."""
    if unwanted:
        return None
    from ..jobs.cache import SubspaceCache

    return SubspaceCache()


def suffixed(path: Path | None, option: str, suffixes: tuple[str, ...]) -> Path | None:
    """The path, if it ends as it must; a usage error otherwise."""
    if path is not None and path.suffix.lower() not in suffixes:
        raise typer.BadParameter(visible(f"{path} must end in {' or '.join(suffixes)}"), param_hint=option)
    return path


def only_for(ctx: typer.Context, names: tuple[str, ...], whose: str, here: str) -> None:
    """A usage error where options are given that mean nothing here.

    Args:
        names: the parameters that do not.
        whose: what they are for. here: what is the case.
    """
    given = [
        option.opts[0]
        for option in ctx.command.params
        if option.name in names and getattr(ctx.get_parameter_source(option.name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise typer.BadParameter(visible(f"only for {whose}, and {here}"), param_hint=", ".join(given))
