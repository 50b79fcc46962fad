"""What a LoRA file is at a glance, from its header alone, and whether it is for a base: quick enough for a menu."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..adapters.outline import outline
from ..bases.file import FileBase
from ..errors import WrongBaseError
from ..names import guess_adapter_architecture
from ..names.keys import is_text_encoder
from ..untrusted import one_line
from .transfer.plan import plan

LONGEST = 200  # letters of a trigger word


@dataclass(frozen=True)
class Glance:
    """architecture: as ``guess_adapter_architecture`` says it; ranks: smallest and largest, None without any."""

    architecture: str
    ranks: tuple[int, int] | None
    modules: int
    triggers: tuple[str, ...]
    size: int  # bytes


def glance(path: str | os.PathLike) -> Glance:
    """Raises AdapterError (see :func:`adapters.outline.outline`)."""
    return _glance(Path(path), _stamp(path))


def belongs(path: str | os.PathLike, base: str | os.PathLike) -> tuple[str, bool | None]:
    """The base's architecture, and whether the LoRA is for it; None where the base's file cannot tell, as one without
    the text encoder cannot for a LoRA that changes nothing else.

    Raises:
        AdapterError, BaseModelError: a file cannot be read.
    """
    return _belongs(Path(path), Path(base), _stamp(path), _stamp(base))


def _stamp(path: str | os.PathLike) -> tuple[int, int]:
    try:
        stat = Path(path).stat()
    except OSError:
        return 0, 0  # whoever opens the file says why
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=256)
def _glance(path: Path, stamp: tuple[int, int]) -> Glance:
    adapter = outline(path)
    ranks = [module.rank for module in adapter.modules.values() if module.rank is not None]
    return Glance(
        guess_adapter_architecture({key: module.shape for key, module in adapter.modules.items()}),
        (min(ranks), max(ranks)) if ranks else None,
        len(adapter.modules),
        tuple(one_line(word)[:LONGEST] for word in adapter.triggers),
        stamp[1],
    )


@lru_cache(maxsize=256)
def _belongs(path: Path, base: Path, *stamps: tuple[int, int]) -> tuple[str, bool | None]:
    adapter, opened = outline(path), FileBase.open(base)
    bodies = {key: module for key, module in adapter.modules.items() if not is_text_encoder(key)}
    if not bodies:
        return opened.architecture, None
    try:
        plan(adapter.with_modules(bodies), opened, opened)
    except WrongBaseError:
        return opened.architecture, False
    return opened.architecture, True
