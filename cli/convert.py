"""``lora-graft convert``: the same adapter under other key names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..untrusted import visible
from .guard import cleanly
from .menus import Layout
from .options import BASE_HELP, Debug, DtypeOption, Force, Lora, Output
from .output import from_peft, outputs, publish


@cleanly
def convert(
    lora: Lora,
    layout: Annotated[Layout, typer.Option("--layout", help="Key names to write.")],
    output: Output,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="BASE", help=f"Where the names cannot be guessed: the {BASE_HELP}")
    ] = None,
    dtype: DtypeOption = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Rewrite an adapter in another layout; its weights stay the same."""
    peft = from_peft(lora, layout=layout.value)
    asked = outputs(output, force=force, inputs=(lora, base), folder=peft)

    from .. import adapters
    from ..bases import open_base
    from ..jobs.convert import convert as run
    from ..jobs.loaders import unread

    result = run(adapters.read(lora), layout.value, open_base(base) if base else None)
    publish(asked, adapter=result, dtype=dtype.value if dtype else None)
    typer.echo(visible(f"Wrote {output}: {len(result.modules)} modules in {result.layout} layout"))
    for sentence in unread(result):
        typer.echo(visible(f"Note: {sentence}"))
