"""Work on many items, in a few processes of this machine that are set up once; when one dies, only its item fails.

What carries out work on many items is an :class:`Engine`: :class:`LocalEngine` here, a cluster in :mod:`.ray_tasks`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from .. import choices
from ..errors import GraftError, in_words, lacks_memory
from .progress import Progress

Given = TypeVar("Given")
Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")
Answer = tuple["Result | None", str]  # the result, or None and why there is none


class Crew(Protocol):
    """Processes somewhere, set up and waiting for work."""

    def each(
        self,
        task: Callable[[Item], Result],
        items: Iterable[Item],
        progress: Progress,
        label: Callable[[Item], str] = str,
    ) -> Iterator[tuple[Item, Result | None, str]]:
        """(item, result, "") or (item, None, why there is none) of a task, as they come."""
        ...


class Engine(Protocol):
    """Where work on many items is done."""

    @property
    def shared(self) -> bool:
        """Whether other machines take part, which know files by their absolute names in common folders only."""
        ...

    def crew(
        self, items: int, set_up: Callable[[Given], None], given: Given, *, device: str
    ) -> AbstractContextManager[Crew]:
        """Processes for so many items, each of which has called `set_up` with `given` before its first."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Processes of this machine, spawned: a script that uses them does so under ``if __name__ == "__main__"``.

    processes: at a time; None for one per core, at most ``choices.Transfer.processes``, and one on a GPU.
    """

    processes: int | None = None
    shared: bool = False

    def crew(
        self, items: int, set_up: Callable[[Given], None], given: Given, *, device: str
    ) -> AbstractContextManager[Crew]:
        cores = os.cpu_count() or 1
        count = self.processes or (1 if device.startswith("cuda") else min(choices.Transfer.processes, cores))
        return Processes(min(count, items), set_up, given, threads=max(1, cores // count))


class Processes(Generic[Given]):
    """Processes that have each called `set_up` once; ended at once when the body fails or is interrupted.

    Args:
        count: how many, at least 1.
        set_up: called in each process, with `given`, before its first item.
        threads: of PyTorch, in each process; those of several processes that wait for each other crawl.
    """

    def __init__(self, count: int, set_up: Callable[[Given], None], given: Given, *, threads: int = 1):
        self.count, self.set_up, self.given, self.threads = max(1, count), set_up, given, threads
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> Processes[Given]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(at_once=kind is not None)

    def each(
        self,
        task: Callable[[Item], Result],
        items: Iterable[Item],
        progress: Progress,
        label: Callable[[Item], str] = str,
    ) -> Iterator[tuple[Item, Result | None, str]]:
        """(item, result, "") or (item, None, why there is none) of a task, as they come.

        When a process dies, what was unfinished is done one by one, so that only the item at fault fails.

        Args:
            task: a function of a module, called in one of the processes; what it raises becomes the reason.
            label: of an item, for the progress.
        """
        items = list(items)
        unfinished = dict.fromkeys(items)
        for item, (result, reason) in self._answers(task, items, unfinished):
            del unfinished[item]
            progress(len(items) - len(unfinished), len(items), label(item))
            yield item, result, reason

    def _answers(
        self, task: Callable[[Item], Result], items: list[Item], unfinished: dict[Item, None]
    ) -> Iterator[tuple[Item, Answer[Result]]]:
        try:
            waiting = {self._started(self.count).submit(guarded, task, item): item for item in items}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            self._end(at_once=True)
            for item in list(unfinished):
                try:
                    answer = self._started(1).submit(guarded, task, item).result()
                except BrokenProcessPool:
                    self._end(at_once=True)
                    answer = None, "its process was ended from outside, perhaps for want of memory"
                yield item, answer
            self._end(at_once=False)

    def _started(self, count: int) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            given = (self.threads, self.set_up, self.given)
            self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=given)
        return self._pool

    def _end(self, *, at_once: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=not at_once, cancel_futures=at_once)
            for process in set(multiprocessing.active_children()) - self._others if at_once else ():
                process.terminate()
            self._pool = None


def _begin(threads: int, set_up: Callable[[Given], None], given: Given) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    import torch

    torch.set_num_threads(min(threads, torch.get_num_threads()))
    set_up(given)


def guarded(task: Callable[[Item], Result], item: Item) -> Answer[Result]:
    """What became of one item; only what ends the process itself gets past this."""
    from ..kernels.threads import one_thread

    try:
        with one_thread():
            return task(item), ""
    except (GraftError, OSError, MemoryError) as error:
        return None, in_words(error)
    except Exception as error:  # one odd item must not stop the others
        return None, in_words(error) if lacks_memory(error) else f"{type(error).__name__}: {error}"
