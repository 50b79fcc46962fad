"""Threads take turns in what consists of many tiny operations.

Each operation gives Python's lock away and wants it back within microseconds. Threads that do so side by side hand it
to one another hundreds of times per matrix and end up slower than one alone; beside a thread in a large product they
lose nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_lock = Lock()


def locked(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, run by one thread at a time, whichever of these functions it is. They must not call each other."""

    @wraps(function)
    def waiting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _lock:
            return function(*args, **kwargs)

    return waiting
