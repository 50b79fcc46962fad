"""The jobs of the page: one after the other in a thread of their own, whether or not somebody looks."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import GraftError, SettingsError, in_words
from .host import Host, Working

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
ENDED = (DONE, FAILED, STOPPED)
KEPT = 50  # jobs remembered after their end
LINED_UP = 200  # jobs that may wait at a time
log = logging.getLogger("lora_graft")


class Stopped(BaseException):
    """Ends a job from its progress callback; no Exception, so that nothing on the way takes it for a failure."""


@dataclass
class Job:
    """One job and what became of it.

    values: as :func:`.check.checked` gives them. done, total, label: of the phase at hand.
    error: what went wrong, in words; of a stopped job, what is left of it. result: of the task, when it is done.
    """

    number: int
    kind: str
    title: str
    values: Mapping[str, Any]
    state: str = WAITING
    done: int = 0
    total: int = 0
    label: str = ""
    error: str = ""
    result: Any = None
    began: float | None = None  # time.monotonic()
    ended: float | None = None
    stopping: bool = False
    _phase: tuple[int, float] = field(default=(0, 0.0), repr=False)  # what was done, and when, as the phase began

    @property
    def elapsed(self) -> float | None:
        """Seconds of work; None before it begins."""
        return None if self.began is None else (self.ended or time.monotonic()) - self.began

    @property
    def left(self) -> float | None:
        """Seconds that the phase will still take; None where nothing tells."""
        first, since = self._phase
        if self.state != RUNNING or self.done - first < 1 or self.total <= 0:
            return None
        return (time.monotonic() - since) / (self.done - first) * max(self.total - self.done, 0)

    def tell(self, done: int, total: int, label: str) -> None:
        """Take down how far the work is."""
        if total != self.total or done < self.done or self.total == 0:
            self._phase = done, time.monotonic()
        self.done, self.total, self.label = done, total, label


Task = Callable[[str, Mapping[str, Any], Host, Callable[[int, int, str], None]], Any]


class Queue:
    """Jobs in the order in which they came, one at a time.

    task: called as task(kind, values, host, progress) in the queue's thread; its return value is the job's result.
    """

    def __init__(self, host: Host, task: Task):
        self.host, self.task = host, task
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._numbers = itertools.count(1)
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, kind: str, title: str, values: Mapping[str, Any]) -> Job:
        """Line a job up; it begins when those before it have ended.

        Raises:
            SettingsError: too many are waiting.
        """
        with self._news:
            if sum(job.state == WAITING for job in self._waiting) >= LINED_UP:
                raise SettingsError(f"{LINED_UP} jobs are waiting already", hint="Wait, or stop some.")
            job = Job(next(self._numbers), kind, title, values)
            self._jobs[job.number] = job
            self._waiting.append(job)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="lora-graft", daemon=True)
                self._thread.start()
            self._news.notify_all()
        return job

    def jobs(self) -> list[Job]:
        """All that are remembered, the latest first."""
        with self._news:
            return list(reversed(self._jobs.values()))

    def job(self, number: int) -> Job | None:
        return self._jobs.get(number)

    def stop(self, number: int) -> bool:
        """Ask a job to stop: at once when it waits, within one module when it runs. Whether there was one to stop."""
        with self._news:
            job = self._jobs.get(number)
            if job is None or job.state in ENDED:
                return False
            job.stopping = True
            if job.state == WAITING:
                self._end(job, STOPPED)
            self._news.notify_all()
            return True

    def close(self, timeout: float) -> None:
        """Stop everything, and wait so many seconds at most for the job at hand: the program is about to end."""
        for job in self.jobs():
            self.stop(job.number)
        for job in self.jobs():
            self.wait(job.number, timeout)

    def wait(self, number: int, timeout: float | None = None) -> Job | None:
        """Wait until a job has ended; the job."""
        with self._news:
            self._news.wait_for(lambda: (job := self._jobs.get(number)) is None or job.state in ENDED, timeout)
            return self._jobs.get(number)

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting)
                job = self._waiting.popleft()
                if job.state in ENDED:
                    continue
            try:
                with self.host.working(job.title) as working:
                    state, error = self._run(job, working)
                self._finish(job, state, error)
            except BaseException as error:  # the thread goes on with the next one
                log.error("LoRA Graft: the host failed around job %d", job.number, exc_info=error)
                self._finish(job, FAILED, in_words(error) or type(error).__name__)

    def _run(self, job: Job, working: Working) -> tuple[str, str]:
        """Do the job; its state after that and what there is to say."""

        def progress(done: int, total: int, label: str = "", /, *more: object) -> None:
            job.tell(done, total, label)
            if job.stopping or working.interrupted():
                raise Stopped
            working.tell(done, total)

        with self._news:
            if job.state in ENDED:  # stopped while the host was busy
                return STOPPED, ""
            job.state, job.began = RUNNING, time.monotonic()
            self._news.notify_all()
        try:
            job.result = self.task(job.kind, job.values, self.host, progress)
        except Stopped as stopped:
            return STOPPED, str(stopped)
        except Exception as error:
            if not isinstance(error, (GraftError, OSError)):
                log.error("LoRA Graft: job %d failed", job.number, exc_info=error)
            return FAILED, in_words(error) or type(error).__name__
        return DONE, ""

    def _finish(self, job: Job, state: str, error: str = "") -> None:
        with self._news:
            if job.state not in ENDED:
                job.error = error
                self._end(job, state)
                self._news.notify_all()

    def _end(self, job: Job, state: str) -> None:
        job.state, job.ended = state, time.monotonic()
        over = [number for number, other in self._jobs.items() if other.state in ENDED]
        for number in over[:-KEPT]:
            del self._jobs[number]
