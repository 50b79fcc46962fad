"""Output files: refused before any work is done when they would overwrite, and written all together or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import GraftError
from .atomic import move, unfinished


def claim(
    *paths: Path | None, force: bool = False, inputs: tuple[Path | None, ...] = (), folder: Path | None = None
) -> None:
    """Check that every output can be written, before the work starts.

    Args:
        folder: the one of them that is a folder of files; force lets it exist, as a folder.

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
        if path.is_dir() and path != folder:
            raise GraftError("the output is a folder", file=path, hint="Give the name of a file.")
        if path.is_file() and path == folder:
            raise GraftError("the output is a folder, and a file has this name", file=path, hint="Choose another name.")
        if path.exists() and not force:
            raise GraftError("the output exists already", file=path, hint="Choose another name, or add --force.")
        if not path.parent.is_dir():
            raise GraftError("the folder for the output does not exist", file=path, hint="Create it first.")


def beside(output: Path, suffix: str | None) -> Path | None:
    """The name of a report next to an adapter's file or folder; None without a suffix."""
    if suffix is None:
        return None
    stem = output.stem if output.suffix.lower() == ".safetensors" else output.name  # a folder's name keeps its dots
    return output.with_name(stem + suffix)


def ignores_case(folder: Path) -> bool:
    """Whether the file system of a folder, or of what is there of its path, takes A and a for one name."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    other = folder.with_name(folder.name.swapcase()) if folder.name else folder
    return other.name != folder.name and other.exists() and other.samefile(folder)


@contextmanager
def staged(files: dict[Path, bytes], *, main: Path | None = None, overwrite: bool = True) -> Iterator[None]:
    """Write files under hidden names beside their own, run the body (which writes the main file), then move them in.

    When a write, the body or a move fails, none of them appears; what stood under their names before stays.

    Args:
        main: the file or folder that the body writes; it goes again when a move fails and it is new.
        overwrite: whether the files may exist.
    """
    new = [path for path in (main, *files) if path is not None and not path.exists()]
    moved: list[Path] = []
    try:
        with ExitStack() as stack:
            ready = {}
            for path, data in files.items():
                file, ready[path] = stack.enter_context(unfinished(path))
                file.write(data)
                file.close()
            yield
            moved += [] if main is None else [main]
            try:
                for path, scratch in ready.items():
                    move(scratch, path, overwrite)
                    moved.append(path)
            except BaseException:
                for path in [path for path in moved if path in new]:
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise GraftError(f"could not write: {error.strerror or error}", file=error.filename or _names(files)) from error


def _names(files: dict[Path, bytes]) -> str:
    return ", ".join(str(path) for path in files)
