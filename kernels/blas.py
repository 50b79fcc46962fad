"""SciPy's BLAS has threads of its own, which know nothing of PyTorch's number and spin while they wait."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

# What SciPy's wheels call it, by system, and the suffixes of its functions.
_FILES = ("../scipy.libs/*openblas*", ".dylibs/*openblas*")
_ENDS = ("", "64_")


class _Blas(NamedTuple):
    number: int
    set: Callable[[int], None]


@contextmanager
def as_torch() -> Iterator[None]:
    """The body with no more threads in SciPy than the calling thread has in PyTorch; without effect where SciPy has
    another BLAS than its wheels bring."""
    blas = _blas()
    if blas is None or blas.number <= torch.get_num_threads():
        yield
        return
    blas.set(torch.get_num_threads())
    try:
        yield
    finally:
        blas.set(blas.number)


@lru_cache(maxsize=1)
def _blas() -> _Blas | None:
    try:
        import scipy

        folder = Path(scipy.__file__).parent
        for path in (found for pattern in _FILES for found in sorted(folder.glob(pattern))):
            library = ctypes.CDLL(str(path))
            for end in _ENDS:
                number_of = getattr(library, f"scipy_openblas_get_num_threads{end}", None)
                if number_of is not None:
                    return _Blas(number_of(), getattr(library, f"scipy_openblas_set_num_threads{end}"))
    except (ImportError, OSError, AttributeError):
        pass
    return None
