"""``lora-graft batch``: a workflow with every combination of some values, on one or several ComfyUI servers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..choices import Batch
from ..errors import GraftError
from .guard import FAILED, INTERRUPTED, cleanly
from .options import Debug

LOCAL = "http://127.0.0.1:8188"


@cleanly
def batch(
    workflow: Annotated[Path, typer.Argument(metavar="WORKFLOW_API.json", help="In ComfyUI: Workflow > Export (API).")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NODE.INPUT=VALUES", help="An input to vary; repeat for more. See above."),
    ] = None,
    servers: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="URL", help=f"A ComfyUI; repeat for more. Default: {LOCAL}."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="For the results and the manifest. Default: WORKFLOW_API-batch.",
        ),
    ] = None,
    leave: Annotated[
        bool, typer.Option("--leave", help="Leave the results on the servers; the manifest says where.")
    ] = False,
    ahead: Annotated[
        int, typer.Option("--ahead", min=1, max=16, help="Prompts on one server at a time, the running one included.")
    ] = Batch.ahead,
    patience: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds to wait for a server to come back, when none is left.")
    ] = Batch.patience,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the combinations and stop.")] = False,
    debug: Debug = False,
) -> None:
    """Run a workflow once for every combination of values, on ComfyUI servers.

    \b
    NODE    its title on the canvas, display name, class or id
    INPUT   its name; the front will do (lora for lora_name)
    VALUES  3            a number, a text, true or false, an entry of a menu
            a|b|c        alternatives (\\| is a plain bar)
            loras/*      a glob, where the input is a menu of files
            @FILE        one value per line

    \b
    Several --set of one input make one longer list. The last input changes
    fastest: put first what is slow to load.

    \b
    A glob means the files it matches here, if the server has them too: it
    finds them by their names. Without such files it means the server's own
    list, models folders such as loras/ left out: loras/*.safetensors are all
    LoRAs at the top of its models/loras, loras/**/* those in subfolders too.

    \b
    FOLDER/manifest.jsonl records each step. The same command again does
    what is missing or failed and nothing twice, and fetches what servers
    finished meanwhile. Ctrl-C takes back our prompts that have not begun.
    A server that goes down leaves its prompts to the others; when it comes
    back it takes part again.

    \b
    Example:
      lora-graft batch batch.json \\
        --set "Load LoRA.lora=loras/*.safetensors" \\
        --set "Target.unet=base_b.safetensors|base_c.safetensors" \\
        --server http://127.0.0.1:8188 --server http://otherhost:8188
    """
    if not workflow.is_file():
        raise GraftError("there is no such file", file=workflow)
    folder = output or Path(f"{workflow.stem}-batch")
    try:
        from ..batch import run, server, workflow as workflows  # noqa: I001
    except ModuleNotFoundError as error:
        raise GraftError(
            f"the batch client needs {error.name}, which is not installed", hint="pip install httpx 'websockets>=15'"
        ) from error
    urls = list(dict.fromkeys(server.address(url) for url in servers or [LOCAL]))
    order = run.Order(sets or [], urls, folder, ahead=ahead, leave=leave, patience=patience)
    loaded = workflows.load(workflow)
    try:
        summary = run.interruptible(run.carry_out(loaded, order, say=_say, dry=dry_run))
    except KeyboardInterrupt:
        if debug:
            raise
        print(
            "Interrupted. Prompts that had not begun were taken back; the same command goes on from here.",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    from .screen import show_batch

    show_batch(summary, folder, dry=dry_run, leave=leave)
    if not dry_run and (summary.stopped or summary.failed):
        raise typer.Exit(FAILED)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
