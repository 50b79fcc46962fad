"""Memory that gives out, told with what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import NO_MEMORY, lacks_memory


@contextmanager
def memory_told(hint: str) -> Iterator[None]:
    """The body, or as a decorator the function; where memory gives out there, the error says so and what to lower.

    Raises:
        torch.cuda.OutOfMemoryError: on a device; a host knows it, and makes room.
        MemoryError: otherwise, whatever PyTorch raised.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if not lacks_memory(problem) or str(problem).startswith(NO_MEMORY):
            raise
        kind = torch.cuda.OutOfMemoryError if isinstance(problem, torch.cuda.OutOfMemoryError) else MemoryError
        raise kind(f"{NO_MEMORY}\n{hint}") from problem
