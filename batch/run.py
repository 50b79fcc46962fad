"""A whole batch: the servers, the pool, the manifest and the screen brought together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from .. import choices
from ..errors import GraftError
from .catalogue import Catalogue
from .jobs import Job, assignments, combine
from .manifest import NAME, Manifest
from .pool import Outcome, Pool
from .server import Server, Unreachable
from .watch import Watch
from .worker import Worker
from .workflow import Workflow


@dataclass(frozen=True)
class Order:
    """What to do. ahead: prompts of ours on one server at a time; leave: results stay there; grace, patience: seconds
    without an answer until a server's prompts go to others, and until it is given up."""

    sets: list[str]
    urls: list[str]
    folder: Path
    ahead: int = choices.Batch.ahead
    leave: bool = False
    grace: float = 3.0
    patience: float = choices.Batch.patience


@dataclass
class Summary:
    """jobs: all of this batch; before: how many an earlier call did; outcomes: by job, of this call; stopped: why it
    ended early, if it did."""

    jobs: list[Job]
    before: int
    outcomes: dict[str, Outcome]
    stopped: str | None = None

    @property
    def failed(self) -> list[tuple[Job, Outcome]]:
        return [(j, o) for j in self.jobs if (o := self.outcomes.get(j.id)) and o.error is not None]

    @property
    def done(self) -> int:
        return self.before + sum(o.error is None for o in self.outcomes.values())


class Batch:
    """What the workers of one batch share, and what they report to."""

    def __init__(self, order: Order, pool: Pool, manifest: Manifest, screen: Watch):
        self.pool, self.manifest, self.screen = pool, manifest, screen
        self.ahead, self.grace, self.patience = order.ahead, order.grace, order.patience
        self.folder = None if order.leave else order.folder
        self.workers: list[Worker] = []
        self.over = asyncio.Event()
        self._error: BaseException | None = None
        self._tasks: set[asyncio.Task] = set()

    def note(self, event: str, job: Job, number: str, server: str, **more) -> None:
        self.manifest.write(event, job=job.id, prompt_id=number, server=server, **more)

    def end(self, job: Job, outcome: Outcome) -> None:
        """A job has a result or a failure; only the first counts."""
        self.ended([(job.id, outcome)] if self.pool.settle(job.id, outcome) else [])

    def ended(self, settled: list[tuple[str, Outcome]]) -> None:
        """Write down jobs that the pool has just settled."""
        for job, outcome in settled:
            entry = {
                "job": job,
                "values": self.pool.jobs[job].values,
                "prompt_id": outcome.prompt_id,
                "server": outcome.server,
                "seconds": outcome.seconds,
            }
            if outcome.error is None:
                self.manifest.write("done", **entry, files=outcome.files)
            else:
                self.manifest.write("failed", **entry, error=outcome.error)
            self.screen.ended(sum(o.error is not None for o in self.pool.outcomes.values()))
        if self.pool.finished:
            self.over.set()
        if settled:
            self.others(None)

    def others(self, worker: Worker | None) -> None:
        """Something changed that other servers may act on."""
        for other in self.workers:
            if other is not worker:
                other.wake.set()
        if all(w.gone for w in self.workers):
            self.over.set()

    def watch(self, task: asyncio.Task) -> None:
        """An error of this task ends the batch."""
        self._tasks.add(task)
        task.add_done_callback(self._check)

    def show(self, worker: Worker) -> None:
        running = [f.job.label for f in worker.flights.values() if f.running]
        self.screen.server(worker.name, (running[0] if running else "waiting") if worker.up else "does not answer")

    def step(self, worker: Worker, value: float | None, highest: float | None) -> None:
        self.show(worker)
        self.screen.step(worker.name, value, highest)

    def say(self, text: str) -> None:
        self.screen.say(text.strip())

    async def work(self) -> None:
        """Until every job has ended, or no server is left. Interrupted, it takes back what has not begun."""
        try:
            await asyncio.gather(*(self._adopt(worker) for worker in self.workers))
            for worker in self.workers:
                self.watch(asyncio.create_task(worker.run()))
            if self.pool.finished:
                self.over.set()
            await self.over.wait()
        finally:
            while self._tasks:  # again: before Python 3.12 asyncio's wait_for may swallow a cancel
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(list(self._tasks), timeout=0.1)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(*map(self._withdraw, self.workers)), 10)
        if self._error:
            raise self._error

    async def _adopt(self, worker: Worker) -> None:
        with contextlib.suppress(Unreachable):
            await worker.adopt()

    async def _withdraw(self, worker: Worker) -> None:
        with contextlib.suppress(GraftError):
            await worker.withdraw()

    def _check(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self._error = self._error or task.exception()
            self.over.set()


async def carry_out(workflow: Workflow, order: Order, *, say: Callable[[str], None], dry: bool = False) -> Summary:
    """Queue every combination that is not done yet, and see each to its end.

    Args:
        say: called with the plan, before anything is queued.
        dry: stop there.

    Raises:
        GraftError: no server answers, one is not ComfyUI, a node class is unknown, a ``--set`` is wrong, the folder
            is in use.
    """
    async with AsyncExitStack() as stack:
        client = uuid.uuid4().hex
        servers = [await stack.enter_async_context(Server(url, client)) for url in order.urls]
        infos = await _ask(servers, workflow, say)
        catalogue = Catalogue(infos.values())
        _check(workflow, catalogue, list(infos))
        chosen = assignments(order.sets, workflow, catalogue)
        jobs = combine(workflow, chosen)
        for node_input, values in chosen:
            say(f"{node_input.name}: {len(values)} value{'s' * (len(values) != 1)}")
        if dry:
            return Summary(jobs, 0, {})
        manifest = stack.enter_context(Manifest(order.folder / NAME))
        missing = [job for job in jobs if job.id not in manifest.past.done]
        before = len(jobs) - len(missing)
        say(f"{len(jobs)} prompts" + (f", {before} done before, {len(missing)} to do" if before else ""))
        manifest.write("batch", sets=order.sets, servers=order.urls, jobs=len(jobs), missing=len(missing))
        pool = Pool(missing, order.urls)
        screen = stack.enter_context(Watch(len(jobs), before, order.urls))
        batch = Batch(order, pool, manifest, screen)
        batch.workers = [Worker(server, batch) for server in servers]
        for number, (url, job) in manifest.past.queued.items():
            for worker in batch.workers:
                if worker.name == url and job in pool.jobs:
                    worker.strays[number] = pool.jobs[job]
        await batch.work()
        stopped = None if pool.finished else "no server answers any more"
        return Summary(jobs, before, pool.outcomes, stopped)


def interruptible(work) -> Summary:
    """Run to the end; Ctrl-C and a request to end cancel the work, which tidies up first.

    Raises:
        KeyboardInterrupt: afterwards.
    """

    async def main() -> Summary:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is not None and os.name != "nt":
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _ask(servers: list[Server], workflow: Workflow, say) -> dict[str, dict]:
    """What each server that answers knows of the workflow's classes."""
    infos, silent = {}, []
    for server in servers:
        try:
            await server.check()
            infos[server.url] = await server.classes(workflow.classes)
        except Unreachable as error:
            silent.append(error)
    if not infos:
        raise Unreachable(silent[0].what, hint="Start ComfyUI there, or give another --server.")
    for error in silent:
        say(f"{error}. The others begin without it.")
    return infos


def _check(workflow: Workflow, catalogue: Catalogue, urls: list[str]) -> None:
    unknown = [kind for kind in workflow.classes if kind not in catalogue]
    if unknown:
        raise GraftError(
            f"{' and '.join(urls)} {'knows' if len(urls) == 1 else 'know'} no node {', '.join(unknown)}",
            hint="Install the pack that brings it there, then start ComfyUI anew.",
        )
    if not any(catalogue.writes(kind) for kind in workflow.classes):
        raise GraftError(
            "nothing in this workflow leaves a result",
            hint="Add an output node to it, such as Save Image or Save LoRA.",
        )
