"""Independent pieces of work on a few threads of the CPU, their results in the order of the pieces.

Work on many small matrices hardly gains from threads inside one operation; pieces side by side do. Each worker uses one
thread, so that their number changes no byte of a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import TypeVar

import torch

from ..kernels.threads import hold, most

Piece = TypeVar("Piece")
Result = TypeVar("Result")
WORKERS = 4
# Just below the largest block that changes what glibc keeps, 32 MB.
KEPT = 31 << 20


def in_order(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], *, here: Callable[[Piece], bool] = lambda piece: False
) -> Generator[Result, None, None]:
    """work(piece) of every piece, in order; close it to stop: what has not begun is dropped.

    At most twice as many pieces as workers are begun or done and not yet taken. Workers take over whether the caller
    records gradients. An error of `work` is raised where its result would have come.

    Args:
        here: whether the calling thread itself must do a piece; it does so when the piece's turn comes.
    """
    _keep_freed_memory()
    workers = min(most(), WORKERS)
    if workers < 2:
        yield from map(work, pieces)
        return
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    waiting: deque[Callable[[], Result]] = deque()
    pool = _pool(workers)
    try:
        for piece in pieces:
            if len(waiting) == 2 * workers:
                yield waiting.popleft()()
            mine = here(piece)
            waiting.append(partial(work, piece) if mine else pool.submit(_as_caller, modes, work, piece).result)
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Running workers of one thread each; the setting of all other threads is as it was."""
    pool = ThreadPoolExecutor(workers, "lora_graft", _alone, (most(),))
    started = Barrier(workers + 1)
    try:
        for _ in range(workers):
            pool.submit(started.wait)
        started.wait()
    except BaseException:  # a Ctrl-C: those that wait must not wait for ever
        started.abort()
        pool.shutdown(cancel_futures=True)
        raise
    return pool


def _alone(others: int) -> None:
    torch.get_num_threads()  # a new thread otherwise takes, at its first operation, the number last set by any thread
    hold(1, others=others)


def _keep_freed_memory() -> None:
    """Once a block of this size was freed, glibc hands back less of what is freed later, to ask for it again at once.

    The pages of such memory cost as much as a tenth of a merge. The block itself is never touched.
    """
    torch.empty(KEPT, dtype=torch.uint8)


def _as_caller(modes: tuple[bool, bool], work: Callable[[Piece], Result], piece: Piece) -> Result:
    inference, gradients = modes
    with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
        return work(piece)
