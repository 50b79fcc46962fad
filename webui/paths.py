"""Names instead of paths: what page and API may name lies in the chosen folders, and new files go there only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import GraftError, SettingsError
from ..untrusted import visible

ADAPTERS = (".safetensors",)
CHECKPOINTS = (".safetensors", ".gguf")
FOLDERS = ("model_index.json", "config.json")  # what makes a folder a model of diffusers or transformers
LONGEST = 120  # letters of a new name
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(\..*)?", re.IGNORECASE)  # of Windows
_REFUSED = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*,]')  # of file systems, and what breaks a <lora:…> tag


def adapters_in(folders: Iterable[Path]) -> dict[str, Path]:
    """Name → file of the adapters in some folders; a name is the path there without its ending, with slashes.

    Of equal names in several folders the later ones have their folder's name before them.
    """
    return _named(folders, lambda root: _files(root, ADAPTERS), without_ending=True)


def bases_in(folders: Iterable[Path]) -> dict[str, Path]:
    """Name → checkpoint, or folder of a diffusers or transformers model."""
    return _named(folders, _models, without_ending=False)


def found(name: str, known: Mapping[str, Path], what: str) -> Path:
    """The file that a name means: the whole name, or its last part where that is one file's alone.

    Raises:
        SettingsError: there is none, or there are several.
    """
    if name in known:
        return known[name]
    alike = [full for full in known if full.rsplit("/", 1)[-1] == name]
    if len(alike) == 1:
        return known[alike[0]]
    shown = visible(name[:80])
    if alike:
        raise SettingsError(f"there are several {what}s called {shown!r}", hint=f"Say which: {', '.join(alike[:5])}.")
    raise SettingsError(f"there is no {what} {shown!r}", hint="Choose one of the list; refresh it after adding files.")


def plain_name(wanted: str) -> str:
    """A name for a new file or folder, without an ending; spaces around it go.

    Raises:
        SettingsError: it is none, or no system would take it.
    """
    name = wanted.strip().removesuffix(ADAPTERS[0]).strip()
    if not name or name.startswith(".") or name.endswith(".") or len(name) > LONGEST or len(name.encode()) > 200:
        raise SettingsError(f"{visible(wanted[:40])!r} is no name for a file", hint="Take letters and digits.")
    if _REFUSED.search(name) or visible(name) != name or _DEVICES.fullmatch(name):
        raise SettingsError(
            f"{visible(name[:80])!r} is no name for a file here",
            hint='A plain name without folders, and without < > : " / \\ | ? * and commas.',
        )
    return name


def new_file(folder: Path, wanted: str, suggestion: str) -> Path:
    """The file to write in a folder: as named, or a free name made from the suggestion.

    Raises:
        SettingsError: the name is no plain name. GraftError: the file exists.
    """
    if not wanted.strip():
        return _free(folder, suggestion)
    path = folder / f"{plain_name(wanted)}{ADAPTERS[0]}"
    if os.path.lexists(path):
        raise GraftError(f"{path.name} exists already", hint="Choose another name; nothing is overwritten.")
    return path


def new_folder(folder: Path, wanted: str) -> Path:
    """A folder for results inside another; it may exist.

    Raises:
        SettingsError: no plain name, or a link that leads out.
    """
    path = folder / plain_name(wanted)
    if os.path.lexists(path) and not inside(path, folder):
        raise SettingsError(f"{path.name} leads out of the LoRA folder", hint="Choose another name.")
    return path


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, with every link followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a circle of links
        return False


def _free(folder: Path, suggestion: str) -> Path:
    stem = _REFUSED.sub("_", visible(suggestion)).strip(" .")[:LONGEST] or "lora"
    while len(stem.encode()) > 200:
        stem = stem[:-1]
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 100_000))
    return next(path for name in names if not os.path.lexists(path := folder / f"{name}{ADAPTERS[0]}"))


def _named(folders: Iterable[Path], look, *, without_ending: bool) -> dict[str, Path]:
    names: dict[str, Path] = {}
    for root in folders:
        for path in look(root):
            relative = path.relative_to(root)
            name = (relative.with_suffix("") if without_ending else relative).as_posix()
            name = name if name not in names else f"{root.name}/{name}"
            if visible(name) == name:
                names.setdefault(name, path)
    return dict(sorted(names.items(), key=lambda item: item[0].casefold()))


def _files(root: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in endings and inside(path, root) and path.is_file():
                yield path


def _models(root: Path) -> Iterator[Path]:
    """Checkpoints and models' folders; what lies inside such a folder is part of it."""
    for folder, folders, files in os.walk(root):
        if Path(folder) != root and any(name in files for name in FOLDERS):
            folders.clear()
            yield Path(folder)
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in CHECKPOINTS and inside(path, root):
                yield path
