"""``lora-graft inspect``: what an adapter file is."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import choices
from .guard import cleanly
from .options import Debug, Lora


@cleanly
def inspect(
    lora: Lora,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    tags: Annotated[int, typer.Option("--tags", min=0, help="How many training tags to list.")] = (
        choices.Inspect.tags
    ),
    debug: Debug = False,
) -> None:
    """Say what an adapter is: format, likely base, modules, ranks, norms, trigger words, training tags."""
    from ..jobs.inspect import inspect as look

    found = look(lora, top_tags=tags)
    if as_json:
        typer.echo(found.to_json())
    else:
        from .screen import show_inspection

        show_inspection(found)
