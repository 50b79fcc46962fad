"""The commands, put together. Each lives in a file of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import __version__
from .batch import batch
from .convert import convert
from .dataset import dataset
from .demo import demo
from .discriminator import discriminator
from .distill import distill
from .examples import examples
from .inspect import inspect
from .merge import merge
from .recipe import recipe
from .resize import resize
from .similarity import similarity
from .transfer import transfer
from .ui import ui

app = typer.Typer(
    help="Move LoRA adapters from one diffusion base model to another, and merge them.",
    epilog="Exit status: 0 done, 1 the input or the output is at fault, 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    inspect,
    similarity,
    transfer,
    merge,
    resize,
    convert,
    distill,
    dataset,
    discriminator,
    batch,
    recipe,
    demo,
    examples,
    ui,
)
for command in COMMANDS:
    app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lora-graft {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")] = (
        False
    ),
) -> None:
    """Move LoRA adapters from one diffusion base model to another, without training."""
