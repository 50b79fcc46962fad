"""The command line. Importing this is cheap: torch is loaded by the commands that need it, when they run."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the ``lora-graft`` script; a recipe alone is a command, too."""
    from .app import app

    arguments = sys.argv[1:]
    if arguments and arguments[0].lower().endswith((".yaml", ".yml")):
        arguments.insert(0, "recipe")
    app(arguments, prog_name="lora-graft")
