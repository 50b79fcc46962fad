"""Files that appear whole or not at all, with the permissions that the user's umask gives."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.part").fullmatch
_ABANDONED = 24 * 3600.0  # seconds; where the system has no locks that end with their process
_swept: set[Path] = set()  # folders whose leftovers this process has looked for
_TROUBLE = {errno.EEXIST, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT}  # not for lack of links


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
    with unfinished(final) as (file, scratch):
        yield file
        if sync:
            file.flush()
            os.fsync(file.fileno())
        file.close()
        move(scratch, final, overwrite)


@contextmanager
def unfinished(path: str | os.PathLike) -> Iterator[tuple[BinaryIO, Path]]:
    """An open file with a hidden name beside `path`, and that name; gone at the end unless it was moved.

    A process that is killed cannot tidy up: the first file that another one writes in the folder takes the leftovers
    with it. Which are left over and which are just being written, the lock tells that goes with its process.
    """
    _sweep(Path(path).parent)
    file, scratch, lock = _open(path)
    try:
        yield file, scratch
    finally:
        with suppress(OSError):
            file.close()
        try:
            scratch.unlink(missing_ok=True)
        except OSError:
            _swept.discard(scratch.parent)  # then the next one tries
        if lock is not None:
            lock.close()


def move(scratch: Path, final: Path, overwrite: bool) -> None:
    """Gives the finished file its name in one step; FileExistsError when someone else took it meanwhile."""
    if overwrite:
        os.replace(scratch, final)
    elif os.name == "nt":
        os.rename(scratch, final)  # never over another there
    else:
        try:
            os.link(scratch, final)
        except OSError as problem:
            if problem.errno in _TROUBLE:
                raise
            _claim(scratch, final)


def _claim(scratch: Path, final: Path) -> None:
    """On a file system without hard links: claim the name with an empty file, then move onto it."""
    os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.replace(scratch, final)
    except BaseException:
        with suppress(OSError):
            final.unlink()
        raise


def _open(path: str | os.PathLike) -> tuple[BinaryIO, Path, BinaryIO | None]:
    """A new hidden file, its name, and it once more, to hold its lock when the file itself is closed."""
    while True:
        scratch = beside(path)
        file = scratch.open("xb")
        locked = _lock(file.fileno())
        if locked is None:
            return file, scratch, None
        if locked and os.fstat(file.fileno()).st_nlink:
            return file, scratch, os.fdopen(os.dup(file.fileno()), "wb")
        file.close()  # somebody who sweeps was quicker than the lock


def _lock(number: int) -> bool | None:
    """Whether the file is ours alone now; None where it cannot be locked at all."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(folder: Path) -> None:
    """As :func:`sweep`; once in a process."""
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left in a folder."""
    with suppress(OSError), os.scandir(folder) as listing:
        for entry in [entry for entry in listing if _LEFTOVER(entry.name)]:
            with suppress(OSError):
                _remove_abandoned(Path(entry.path))


def _remove_abandoned(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # of :mod:`.folders`, which nothing locks
        if path.stat().st_mtime < time.time() - _ABANDONED:
            shutil.rmtree(path)
        return
    if fcntl is None:
        if path.stat().st_mtime < time.time() - _ABANDONED:
            path.unlink()
        return
    with path.open("rb") as file:
        if _lock(file.fileno()) is True:
            path.unlink()
