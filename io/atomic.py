"""Files that appear whole or not at all, with the permissions that the user's umask gives."""

from __future__ import annotations

import errno
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
def whole(path: str | os.PathLike, *, overwrite: bool = True, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `path` when the body has ended, and goes when the body fails.

    Args:
        overwrite: whether `path` may exist, before the body or when it has ended.
        sync: wait until the disk has the bytes before the file gets its name.

    Raises:
        FileExistsError: `path` exists and may not be overwritten.
        OSError: the folder is missing or full.
    """
    final = Path(path)
    if not overwrite and final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    scratch = beside(final)
    try:
        with scratch.open("xb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        _move(scratch, final, overwrite)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def _move(scratch: Path, final: Path, overwrite: bool) -> None:
    """Gives the finished file its name in one step; FileExistsError when someone else took it meanwhile."""
    if overwrite:
        os.replace(scratch, final)
        return
    try:
        os.link(scratch, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name, then move onto the claim
        os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(scratch, final)
