"""Errors become one clean message on stderr and an exit status."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable

import typer

from ..errors import GraftError, in_words, lacks_memory
from ..untrusted import visible

FAILED, INTERRUPTED = 1, 130


def cleanly(command: Callable) -> Callable:
    """Wrap a command: what a user can act on is told in a few lines, with the traceback only for ``--debug``."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            if kwargs.get("debug"):
                raise
            print("Interrupted. Each output is there whole, or as it was before.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except (GraftError, OSError, MemoryError, RuntimeError) as error:
            if kwargs.get("debug") or (isinstance(error, RuntimeError) and not lacks_memory(error)):
                raise
            print(f"Error: {visible(in_words(error))}", file=sys.stderr)
            raise typer.Exit(FAILED) from None

    return run
