"""Independent pieces of work on a few threads of the CPU, their results in the order of the pieces.

Work on many small matrices hardly gains from threads inside one operation; pieces side by side do. The threads that
PyTorch may use are shared out among the workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")
WORKERS = 4
# Weight of the pieces that are begun or done and not yet taken; in merges one float32 number each, so 1 GB.
BUDGET = 1 << 28


def in_order(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    *,
    weigh: Callable[[Piece], float] = lambda piece: 1,
    here: Callable[[Piece], bool] = lambda piece: False,
) -> Iterator[Result]:
    """work(piece) of every piece, in order; close it to stop: what has not begun is dropped.

    Only a few pieces are ahead of the one taken: twice the workers, and together no heavier than BUDGET (a piece
    heavier than that is alone). Workers take over whether the caller records gradients. An error of `work` is raised
    where its result would have come.

    Args:
        weigh: weight of a piece.
        here: whether the calling thread itself must do a piece; it does so when the piece's turn comes.
    """
    threads = torch.get_num_threads()
    workers = min(threads, WORKERS)
    if workers < 2:
        yield from map(work, pieces)
        return
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    waiting: deque[tuple[Callable[[], Result], float]] = deque()
    pool = _pool(workers, threads)
    try:
        for piece in pieces:
            weight = weigh(piece)
            while waiting and (len(waiting) == 2 * workers or weight + sum(w for _, w in waiting) > BUDGET):
                yield waiting.popleft()[0]()
            done = partial(work, piece) if here(piece) else pool.submit(_as_caller, modes, work, piece).result
            waiting.append((done, weight))
        while waiting:
            yield waiting.popleft()[0]()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Running workers that share `threads`; the setting of all other threads is as it was."""
    pool = ThreadPoolExecutor(workers, "lora_graft", _share_threads, (threads // workers,))
    started = Barrier(workers + 1)
    for _ in range(workers):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # PyTorch holds it per thread, but new threads begin with what was set last
    return pool


def _share_threads(count: int) -> None:
    torch.get_num_threads()  # a new thread otherwise takes, at its first operation, the number last set by any thread
    torch.set_num_threads(count)


def _as_caller(modes: tuple[bool, bool], work: Callable[[Piece], Result], piece: Piece) -> Result:
    inference, gradients = modes
    with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
        return work(piece)
