"""The command line. Importing this is cheap: torch is loaded by the commands that need it, when they run."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``lora-graft`` script."""
    from .app import app

    app(prog_name="lora-graft")
