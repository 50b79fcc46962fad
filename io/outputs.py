"""Output files: refused before any work is done when they would overwrite, and written all together or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import GraftError
from .atomic import beside


def claim(*paths: Path | None, force: bool = False, inputs: tuple[Path | None, ...] = ()) -> None:
    """Check that every output can be written, before the work starts.

    Raises:
        GraftError: a path exists (unless ``force``), is one of the inputs, a folder, or given twice; its folder is
            missing.
    """
    outputs = [path for path in paths if path is not None]
    taken = {path.resolve() for path in inputs if path is not None}
    for number, path in enumerate(outputs):
        if path.resolve() in taken:
            raise GraftError("the output would overwrite an input", file=path, hint="Choose another name.")
        if path.resolve() in {other.resolve() for other in outputs[:number]}:
            raise GraftError("two outputs have the same name", file=path)
        if path.is_dir():
            raise GraftError("the output is a folder", file=path, hint="Give the name of a file.")
        if path.exists() and not force:
            raise GraftError("the output exists already", file=path, hint="Choose another name, or add --force.")
        if not path.parent.is_dir():
            raise GraftError("the folder for the output does not exist", file=path, hint="Create it first.")


@contextmanager
def staged(files: dict[Path, bytes]) -> Iterator[None]:
    """Write files under hidden names beside their own, run the body (which writes the main file), then move them in.

    When a write or the body fails, none of them appears.
    """
    scratch: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            scratch[path] = beside(path)
            scratch[path].write_bytes(data)
        yield
        for path, temporary in scratch.items():
            os.replace(temporary, path)
    except OSError as error:
        raise GraftError(f"could not write: {error.strerror or error}", file=error.filename or _names(files)) from error
    finally:
        for temporary in scratch.values():
            temporary.unlink(missing_ok=True)


def _names(files: dict[Path, bytes]) -> str:
    return ", ".join(str(path) for path in files)
