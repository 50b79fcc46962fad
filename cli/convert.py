"""``lora-graft convert``: the same adapter under other key names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..untrusted import visible
from .guard import cleanly
from .options import BASE_HELP, Debug, DtypeOption, Force, Layout, Lora, suffixed
from .output import claim


@cleanly
def convert(
    lora: Lora,
    layout: Annotated[Layout, typer.Option("--layout", help="Key names to write.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.safetensors", help="File to write.")],
    base: Annotated[
        Path | None, typer.Option("--base", metavar="BASE", help=f"Where the names cannot be guessed: the {BASE_HELP}")
    ] = None,
    dtype: DtypeOption = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Rewrite an adapter in another layout; its weights stay the same."""
    suffixed(output, "--output", (".safetensors",))
    claim(output, force=force, inputs=(lora, base))

    from .. import adapters
    from ..bases import open_base
    from ..jobs.convert import convert as run

    result = run(adapters.read(lora), layout.value, open_base(base) if base else None)
    adapters.write(result, output, dtype=dtype.value if dtype else None, overwrite=force)
    typer.echo(visible(f"Wrote {output}: {len(result.modules)} modules in {result.layout} layout"))
