"""Files that appear whole or not at all, with the permissions that the user's umask gives."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def beside(path: str | os.PathLike) -> Path:
    """A name in the same folder that nothing else has, hidden, for what is not finished yet.

    Made with plain ``open``, unlike what ``tempfile`` makes, the file may be read by whom the umask lets read.
    """
    path = Path(path)
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.part")


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `path` when the body has ended, and goes when the body fails.

    Raises:
        OSError: the folder is missing or full.
    """
    scratch = beside(path)
    try:
        with scratch.open("xb") as file:
            yield file
        os.replace(scratch, path)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
