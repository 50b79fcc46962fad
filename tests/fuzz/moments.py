"""A job ended at moments chosen at random: Ctrl-C, or memory that gives out; and what must hold after each.

A *moment* is a line of the package's own code that the job is about to run in its main thread. A run is counted once;
then it is run again for each chosen moment, with a true SIGINT, or an error of memory, at that line.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from faults import Box, Tried, Work

PACK = Path(__file__).resolve().parents[2]
_OUTSIDE = tuple(str(PACK / name) + os.sep for name in ("tests", "benchmarks", ".venv"))
_UNGUARDED = (str(PACK / "cli" / "guard.py"), str(PACK / "errors.py"))  # what turns errors into words
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
NO_MEMORY += "allocate 1073741824 bytes. Error code 12 (Cannot allocate memory)"


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def no_memory() -> None:
    raise MemoryError


def no_memory_for_torch() -> None:
    raise RuntimeError(NO_MEMORY)


def no_memory_on_the_gpu() -> None:
    import torch

    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


MEMORY = {"MemoryError": no_memory, "torch on the CPU": no_memory_for_torch, "torch on the GPU": no_memory_on_the_gpu}


class Moments:
    """Counts the lines; at the one numbered `at` it calls `strike`. where: which line that was.

    within: a part of the paths whose lines count.
    """

    def __init__(self, at: int = -1, strike: Callable[[], None] = interrupt, within: str = ""):
        self.at, self.strike, self.within = at, strike, within
        self.seen, self.where = 0, ""

    def watch(self, frame, event, argument):
        name = frame.f_code.co_filename
        ours = name.startswith(str(PACK)) and not name.startswith(_OUTSIDE) and name not in _UNGUARDED
        return self.line if ours and self.within in name[len(str(PACK)) :] else None

    def line(self, frame, event, argument):
        if event != "line":
            return self.line
        self.seen += 1
        if self.seen == self.at:
            sys.settrace(None)
            self.where = f"{Path(frame.f_code.co_filename).relative_to(PACK)}:{frame.f_lineno}"
            self.strike()
        return self.line


@contextmanager
def under(moments: Moments) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    old = sys.gettrace()
    sys.settrace(moments.watch)
    try:
        yield
    finally:
        sys.settrace(old)
        signal.signal(signal.SIGINT, before)


def strike_often(
    work: Work, root: Path, count: int, seed: int, strike: Callable[[], None] = interrupt, within: str = ""
) -> tuple[Tried, list[str]]:
    """A job at this many moments, drawn from all of its lines; how many were tried and what did not hold."""
    box, tried, findings = Box(work, root, False), Tried(), []
    box.measure()
    box.fresh()
    with under(moments := Moments(within=within)):
        work.run(root, False)
    tried.points = moments.seen
    around = _around()
    for at in sorted(Random(seed).sample(range(1, moments.seen + 1), min(count, moments.seen))):
        struck = Moments(at, strike, within)
        found = box.after(
            partial(_try, work, root, struck), lambda here=struck: here.where, tried, ended=None, late=True
        )
        left = _around() - around
        findings += [f"at {at}: {what}" for what in [*found, *(f"left {one} ({struck.where})" for one in left)]]
    return tried, findings


def _try(work: Work, root: Path, moments: Moments) -> bool | None:
    try:
        with under(moments):
            return work.run(root, False)
    except KeyboardInterrupt:
        return None


def _around() -> set[str]:
    """Threads and processes that are there."""
    gc.collect()
    threads = {f"thread {thread.name}" for thread in threading.enumerate()}
    return threads | {f"process {process.pid}" for process in multiprocessing.active_children()}
