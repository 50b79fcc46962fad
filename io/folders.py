"""A folder of files that appears whole or not at all; in one that exists, only those files are replaced."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from .atomic import beside, move, unfinished

Blocks = Iterable[bytes | memoryview]


def write_folder(folder: str | os.PathLike, files: Mapping[str, Blocks], *, overwrite: bool = False) -> Path:
    """Write files into a new folder, or over those of their names in one that exists; its other files stay.

    Args:
        files: name -> the blocks of its content.
        overwrite: whether the folder may exist.

    Raises:
        FileExistsError: the folder exists and may not be written to.
        OSError: the folder above is missing or full. Nothing is left behind, and what stood there before stays.
    """
    folder = Path(folder)
    if folder.exists():
        if not overwrite or not folder.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
        _replace(folder, files)
        return folder
    scratch = beside(folder)
    try:
        scratch.mkdir()
        for name, blocks in files.items():
            with (scratch / name).open("xb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _replace(folder: Path, files: Mapping[str, Blocks]) -> None:
    """All of the files, or none of them: those that stood there before come back when one cannot be moved in."""
    blocked = next((folder / name for name in files if (folder / name).is_dir()), None)
    if blocked is not None:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(blocked))
    with ExitStack() as stack:
        ready: dict[Path, Path] = {}
        for name, blocks in files.items():
            file, scratch = stack.enter_context(unfinished(folder / name))
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            ready[folder / name] = scratch
        before: dict[Path, Path | None] = {}
        try:
            for final, scratch in ready.items():
                before[final] = beside(final) if final.exists() else None
                if (old := before[final]) is not None:
                    os.replace(final, old)
                move(scratch, final, True)
        except BaseException:
            for final, old in before.items():
                if old is None:
                    final.unlink(missing_ok=True)
                elif old.exists():
                    os.replace(old, final)
            raise
        for old in before.values():
            if old is not None:
                with suppress(OSError):
                    old.unlink()
