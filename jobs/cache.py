"""Subspaces of base weights on disk, so that the second LoRA for a pair of bases costs next to nothing.

Content addressed: an entry's name is a hash of the weight's bytes, the size asked for and the version of the spectral
kernels. Nothing can go stale, and two processes that write one entry write the same. Entries are written aside and
renamed into place, so that a reader sees a whole file or none. What cannot be read counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..bases.model import Base
from ..io.atomic import whole
from ..io.safetensors import TensorFile, chunks
from ..kernels.spectral import VERSION, Subspace

Figure = TypeVar("Figure")

# Both subspaces of a pair of SDXL-sized bases take 2.7 GB at k = 128 and 6.6 GB at a quarter of the width.
LIMIT = 8 << 30
# An entry used this recently (seconds) is not thrown out for a new one: a walk over more weights than fit then still
# finds what is there, instead of chasing its own tail.
FRESH = 900.0
# The folder is listed anew after this many writes, to see what other processes wrote.
LOOK_EVERY = 64
_SUFFIX = ".safetensors"
# Digests of one base, one "digest name" line each; a book of a base that has not gained a line for so long (seconds)
# is dropped, and written anew when needed.
_BOOK = ".digests"
_BOOK_LIFE = 90 * 24 * 3600.0


def default_folder() -> Path:
    """$LORA_GRAFT_CACHE, or the user's cache directory on this system."""
    chosen = os.environ.get("LORA_GRAFT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lora_graft" / "subspaces"


def subspace_key(digest: str, size: object, *more: object) -> str:
    """Name of an entry.

    Args:
        digest: hash of the weight's content (``Base.digest``).
        size: what decides k: a number, or the text of a ``SubspaceSize`` ("energy=0.9").
        more: whatever else the matrix depends on, such as the rows of a fused weight.
    """
    return hashlib.sha256("\n".join(map(str, ("subspace", VERSION, digest, size, *more))).encode()).hexdigest()


class SubspaceCache:
    """A bounded folder of subspaces, with an optional share of memory in front.

    Args:
        folder: where entries lie; made when first needed. Default: :func:`default_folder`.
        limit: bytes on disk; the entries used longest ago go first. Never more than half of the free space is added.
        memory: bytes of entries kept in memory as well.

    A folder that cannot be written, or a full disk, makes entries be forgotten, never an error.
    """

    def __init__(self, folder: str | os.PathLike | None = None, *, limit: int = LIMIT, memory: int = 0):
        self.folder = Path(folder) if folder is not None else default_folder()
        self.limit, self.memory = limit, memory
        self.hits = self.misses = 0
        self._used: int | None = None  # Bytes on disk as far as known; None: not looked yet.
        self._writes = 0
        self._books: dict[str, dict[str, str]] = {}
        self._figures: dict[tuple[object, ...], Any] = {}
        self._front: OrderedDict[str, Subspace] = OrderedDict()
        self._front_size = 0

    def get_or_compute(self, key: str, compute: Callable[[], Subspace]) -> Subspace:
        """The entry, or what `compute` returns, which is then kept. A stored entry comes back on the CPU."""
        found = self.get(key)
        if found is None:
            found = compute()
            self.put(key, found)
        return found

    def get(self, key: str) -> Subspace | None:
        """The entry with the very numbers that were put in, or None; a broken file is removed."""
        found = self._front.get(key)
        if found is not None:
            self._front.move_to_end(key)
        else:
            found = self._read(key)
            if found is not None:
                self._remember(key, found)
        self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        return found

    def put(self, key: str, subspace: Subspace) -> None:
        """Keep an entry; another process may put the same at the same time."""
        self._remember(key, subspace)
        tensors = {
            "left": subspace.left,
            "values": subspace.values,
            "right": subspace.right,
            "energy": torch.tensor(subspace.energy, dtype=torch.float64),
        }
        blocks = list(chunks(tensors, {"key": key}))
        size = sum(len(block) for block in blocks)
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size):
                return
            with whole(self._path(key)) as file:
                file.writelines(blocks)
            self._used, self._writes = (self._used or 0) + size, self._writes + 1

    def figure(self, key: tuple[object, ...], compute: Callable[[], Figure]) -> Figure:
        """A number that follows from weights, remembered as long as this object lives.

        Args:
            key: all that it depends on; of a weight its :meth:`digest`.
        """
        if key not in self._figures:
            self._figures[key] = compute()
        return self._figures[key]

    def digest(self, base: Base, name: str) -> str:
        """`base.digest(name)`, remembered from one process to the next for bases in files.

        A base's `stamp` changes with its files (path, size, time of change, sampled bytes), so that a book of digests
        under it stays true; bases without a stamp are asked each time.
        """
        stamp = getattr(base, "stamp", None)
        if stamp is None:
            return base.digest(name)
        path = self.folder / (hashlib.sha256(stamp.encode()).hexdigest() + _BOOK)
        book = self._books.get(stamp)
        if book is None:
            book = self._books[stamp] = _read_book(path)
        if name not in book:
            book[name] = base.digest(name)
            with contextlib.suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                # One short line in one write to the end: several processes may do so at once.
                with open(path, "ab", buffering=0) as file:
                    file.write(f"{book[name]} {name}\n".encode())
        return book[name]

    def clear(self) -> None:
        """Remove every entry."""
        self._front.clear()
        self._books.clear()
        self._figures.clear()
        self._front_size, self._used = 0, None
        for path in [entry[0] for entry in self._entries()] + list(self.folder.glob(f"*{_BOOK}")):
            with contextlib.suppress(OSError):
                path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _read(self, key: str) -> Subspace | None:
        path = self._path(key)
        try:
            found = _parse(TensorFile(path), key)
        except Exception as problem:  # Whatever a damaged file makes the parser raise.
            if path.exists() and not isinstance(problem.__cause__, OSError):
                with contextlib.suppress(OSError):
                    path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def _remember(self, key: str, subspace: Subspace) -> None:
        size = _bytes(subspace)
        if size > self.memory:
            return
        if key in self._front:
            self._front_size -= _bytes(self._front.pop(key))
        self._front[key] = subspace
        self._front_size += size
        while self._front_size > self.memory:
            self._front_size -= _bytes(self._front.popitem(last=False)[1])

    def _make_room(self, size: int) -> bool:
        """Whether `size` bytes may be added, once old entries have gone."""
        limit = min(self.limit, (self._used or 0) + shutil.disk_usage(self.folder).free // 2)
        if self._used is not None and self._used + size <= limit and self._writes % LOOK_EVERY:
            return True
        ahead = time.time() + FRESH  # written by a clock that was wrong: as good as never used
        entries = [(path, used_at if used_at < ahead else 0.0, length) for path, used_at, length in self._entries()]
        entries.sort(key=lambda entry: entry[1])
        self._used = sum(entry[2] for entry in entries)
        limit = min(self.limit, self._used + shutil.disk_usage(self.folder).free // 2)
        stale = time.time() - FRESH
        for path, used_at, length in entries:
            if self._used + size <= limit or used_at > stale:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                self._used -= length
        return self._used + size <= limit

    def _entries(self) -> list[tuple[Path, float, int]]:
        """(path, time of last use, bytes) of all entries; leftovers of writers that died go."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as listing:
            for entry in listing:
                with contextlib.suppress(OSError):
                    stat = entry.stat()
                    if entry.name.endswith(_SUFFIX):
                        found.append((Path(entry.path), stat.st_mtime, stat.st_size))
                    elif stat.st_mtime < time.time() - {".part": FRESH, _BOOK: _BOOK_LIFE}.get(
                        os.path.splitext(entry.name)[1], float("inf")
                    ):
                        os.unlink(entry.path)
        return found


def _read_book(path: Path) -> dict[str, str]:
    """Name -> digest; lines that are not whole are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError:
        return {}
    pairs = (line.rstrip("\n").split(" ", 1) for line in lines if line.endswith("\n"))
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2 and re.fullmatch("[0-9a-f]{64}", pair[0])}


def _parse(file: TensorFile, key: str) -> Subspace:
    """The entry in a file; raises when anything about it is not as `put` wrote it."""
    if file.metadata["key"] != key:
        raise ValueError("another entry's content")
    tensors, _ = file.all()
    left, values, right = tensors["left"], tensors["values"], tensors["right"]
    if not left.shape[1] == len(values) == right.shape[1]:
        raise ValueError("sizes disagree")
    for basis in (left, right):
        # Columns of unit length: the payload has not been overwritten. Catches NaN too.
        lengths = basis.new_ones(len(basis)) @ basis.square()
        if not bool(((lengths - 1).abs() < 1e-3).all()):
            raise ValueError("columns not normal")
    return Subspace(left, values, right, float(tensors["energy"]))


def _bytes(subspace: Subspace) -> int:
    return 4 * (subspace.left.numel() + subspace.values.numel() + subspace.right.numel())
