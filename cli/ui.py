"""``lora-graft ui``: the page in a browser, on this machine alone unless told otherwise."""

from __future__ import annotations

import locale
from pathlib import Path
from typing import Annotated

import typer

from ..choices import Page
from .guard import cleanly
from .menus import Language
from .options import Debug


@cleanly
def ui(
    bases: Annotated[
        list[Path], typer.Option("--bases", metavar="DIR", help="Folder of base models; may be given several times.")
    ],
    loras: Annotated[
        list[Path], typer.Option("--loras", metavar="DIR", help="Folder of LoRAs; may be given several times.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for results. Default: the first folder of LoRAs."),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = Page.port,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="Address to answer on. Any but the default lets other machines in, without a password.",
        ),
    ] = Page.listen,
    language: Annotated[Language, typer.Option("--language", help="Of the page; auto: the system's.")] = (
        Language[Page.language]
    ),
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Show the page: the same jobs as tabs in a browser, with lists of files, progress and reports."""
    from ..webui.alone import Alone
    from ..webui.serve import serve
    from ..webui.words import language_of

    spoken = locale.getlocale()[0] or "" if language is Language[Page.language] else language.value
    host = Alone(bases, loras, output, language=language_of(spoken))

    def started(address: str) -> None:
        typer.echo(f"LoRA Graft is at {address} (Ctrl-C ends it)")
        if show:
            import webbrowser

            webbrowser.open(address)

    serve(host, address=listen, port=port, started=started)
