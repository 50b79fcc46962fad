"""How many of PyTorch's threads take part: one in small work, all that the user allows in large products.

Thousands of small operations, each split over all cores, wait each time for the core that another program has, and are
then ten to forty times slower; alone on the machine they gain next to nothing. PyTorch keeps the number per thread, so
that what other threads of the process do meanwhile (a host that samples) is left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from math import prod
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# Numbers in a matrix whose decomposition keeps all cores busy for long between two waits.
LARGE = 1 << 22
_here = threading.local()


def most() -> int:
    """How many threads the caller may use where the work is large: what was set outside of :func:`one_thread`."""
    return getattr(_here, "most", None) or torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """The body, or as a decorator the function, on one thread; then the number is as before. May be nested."""
    before, outer = torch.get_num_threads(), getattr(_here, "most", None)
    if before == 1:
        yield
        return
    _here.most = before
    hold(1, others=before)
    try:
        yield
    finally:
        _here.most = outer
        torch.set_num_threads(before)


@contextmanager
def all_threads(large: bool = True) -> Iterator[None]:
    """Inside of :func:`one_thread`, where the work is large: the body on all threads that the user allows."""
    before, number = torch.get_num_threads(), most()
    if not large or before == number:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        hold(before, others=number)


def by_size(
    function: Callable[Concatenate[Tensor, Arguments], Result],
) -> Callable[Concatenate[Tensor, Arguments], Result]:
    """The function on all threads where its first argument, a matrix, is large, and on one where it is small."""

    @wraps(function)
    def sized(matrix: Tensor, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        large = prod(matrix.shape) >= LARGE
        with all_threads() if large else one_thread():
            return function(matrix, *args, **kwargs)

    return sized


def hold(number: int, *, others: int) -> None:
    """Set the number for the calling thread alone: threads that begin later take `others`.

    PyTorch gives a new thread the number that was last set by any.
    """
    torch.set_num_threads(number)
    last = threading.Thread(target=torch.set_num_threads, args=(others,))
    last.start()
    last.join()
