"""Feeds one server: a few prompts ahead, collects what is done, and gives back what the server loses."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import results
from .jobs import Job
from .pool import Outcome
from .server import Foreign, Refused, Server, Unreachable, failure, messages_of

if TYPE_CHECKING:
    from .run import Batch

POLL, HURRY, RETRY = 5.0, 0.1, 1.0  # seconds between looks at the queue; after news of an end; at a dead server
FETCHES = 8  # results on their way here before no more prompts are sent


@dataclass
class Flight:
    """One prompt of ours on the server."""

    job: Job
    since: float
    sent: bool = True  # the server has it; until then no other can be given it
    running: bool = False
    ended: bool = False  # the server said so; its history follows
    leaving: bool = False  # being moved to another server
    fetching: asyncio.Task | None = None


class Worker:
    """One server's share of a batch."""

    def __init__(self, server: Server, batch: Batch):
        self.server, self.batch, self.pool = server, batch, batch.pool
        self.name = server.url
        self.flights: dict[str, Flight] = {}
        self.strays: dict[str, Job] = {}  # prompt id → job of prompts from before: an earlier call, or a lost line
        self.up = self.gone = False
        self.wake = asyncio.Event()
        self._down_since: float | None = None

    @property
    def waiting(self) -> list[str]:
        """Prompts of ours that the server has not begun."""
        return [n for n, f in self.flights.items() if f.sent and not (f.running or f.ended or f.leaving or f.fetching)]

    async def run(self) -> None:
        """Until the batch is finished; a server that goes down is tried again all the time."""
        while not self.pool.finished:
            try:
                await self._session()
            except (Unreachable, Foreign) as error:
                self._lost(error)
                await asyncio.sleep(min(RETRY, self.batch.grace))

    async def adopt(self) -> None:
        """Take over what earlier prompts of ours have become. Raises Unreachable."""
        running, queued = await self.server.queue() if self.strays else (set(), set())
        for number, job in list(self.strays.items()):
            if number in running | queued:
                if self.pool.claim(job.id, self.name):
                    self.flights[number] = Flight(job, _now(), running=number in running)
                else:
                    await self._cancel(number)
            elif (record := await self.server.record(number)) is not None and not self.pool.settled(job.id):
                self.pool.claim(job.id, self.name)  # or another server has it: who is first counts
                flight = self.flights[number] = Flight(job, _now())
                self._land(number, flight, record)
            self.strays.pop(number, None)

    async def withdraw(self) -> None:
        """Take back what has not begun. What runs may end: the next call finds it."""
        numbers = [n for n, f in self.flights.items() if not f.fetching]
        if not numbers:
            return
        await self.server.cancel(numbers, running=False)
        running, _ = await self.server.queue()
        for number in set(numbers) - running:
            if await self.server.record(number) is None:
                flight = self.flights.pop(number)
                self.batch.note("returned", flight.job, number, self.name)

    async def release(self, number: str) -> bool:
        """Give a waiting prompt up to an idle server; False when it has begun meanwhile."""
        flight = self.flights[number]
        flight.leaving = True
        try:
            await self.server.cancel([number], running=False)
            running, queued = await self.server.queue()
            if number in running | queued or await self.server.record(number) is not None:
                return False
            self.flights.pop(number, None)
            self.batch.note("returned", flight.job, number, self.name)
            self.pool.give_back(flight.job.id, self.name)
            return True
        finally:
            flight.leaving = False

    async def _session(self) -> None:
        """One stretch of time in which the server answers."""
        await self.server.check()
        listening = asyncio.create_task(self._listen())
        try:
            await self.adopt()
            await self._look()
            self._back()
            while not self.pool.finished:
                await self._fill()
                self.batch.show(self)
                soon = any(f.ended and not f.fetching for f in self.flights.values())
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), HURRY if soon else POLL)
                self.wake.clear()
                await self._look()
        finally:
            listening.cancel()

    async def _fill(self) -> None:
        """Send prompts until a few are ahead; with nothing left to send, relieve the busiest other server."""
        while sum(not f.fetching for f in self.flights.values()) < self.batch.ahead:
            if sum(bool(f.fetching) for f in self.flights.values()) >= FETCHES:
                return
            job = self.pool.take(self.name)
            if job is None:
                if not self.flights and await self._steal():
                    continue
                return
            await self._send(job)

    async def _send(self, job: Job) -> None:
        number = str(uuid.uuid4())
        self.flights[number] = flight = Flight(job, _now(), sent=False)
        self.batch.note("queued", job, number, self.name, values=job.values)
        try:
            given = await self.server.submit(job.prompt, number)
        except Refused as refusal:
            del self.flights[number]
            self.batch.note("returned", job, number, self.name)
            self.batch.ended(self.pool.refuse(job.id, self.name, str(refusal)))
            self.batch.others(self)
            return
        flight.sent = True
        if given != number:  # an old host that chooses its ids itself
            del self.flights[number]
            self.flights[given] = flight
            self.batch.note("returned", job, number, self.name)
            self.batch.note("queued", job, given, self.name, values=job.values)

    async def _steal(self) -> bool:
        others = [w for w in self.batch.workers if w is not self and w.up]
        offers = [(len(w.waiting), w, n) for w in others for n in w.waiting[-1:]]
        offers = [o for o in offers if self.pool.may(o[1].flights[o[2]].job.id, self.name)]
        if not offers:
            return False
        _, other, number = max(offers, key=lambda offer: offer[0])
        try:
            return await other.release(number)
        except Unreachable:
            other.wake.set()
            return False

    async def _look(self) -> None:
        """Compare what should be on the server with what is. Raises Unreachable."""
        if not self.flights:
            await self.server.queue()  # whether it still answers
            return
        known = [n for n, f in self.flights.items() if not (f.fetching or f.leaving)]
        running, queued = await self.server.queue()
        for number in known:
            flight = self.flights.get(number)
            if flight is None or flight.fetching or flight.leaving:
                continue
            if self.pool.holder(flight.job.id) != self.name:  # settled or taken over elsewhere
                del self.flights[number]
                await self._cancel(number)
            elif number in running | queued:
                if number in running and not flight.running:
                    flight.running, flight.since = True, _now()
            elif (record := await self.server.record(number)) is not None:
                self._land(number, flight, record)
            else:  # the server was started anew, or its queue was cleared
                del self.flights[number]
                self._return(number, flight, crashed=flight.running)

    def _land(self, number: str, flight: Flight, record: dict) -> None:
        """A prompt has ended: write down its failure, or fetch its files."""
        seconds = _seconds(record) or round(_now() - flight.since, 3)
        why = failure(record, flight.job.prompt)
        if why is not None:
            del self.flights[number]
            self.batch.end(flight.job, Outcome(self.name, number, why, seconds=seconds))
            return
        flight.fetching = asyncio.create_task(self._fetch(number, flight, _table(record.get("outputs")), seconds))
        self.batch.watch(flight.fetching)

    async def _fetch(self, number: str, flight: Flight, outputs: dict, seconds: float) -> None:
        try:
            if self.batch.folder is None:
                files = [output for _, output in results.listed(outputs)]
            else:
                files = await results.bring(self.server, flight.job, outputs, self.batch.folder)
            outcome = Outcome(self.name, number, files=files, seconds=seconds)
        except Unreachable:  # its results may be there again later; until then others have the job
            flight.fetching = None
            return self.wake.set()
        except Refused as error:
            outcome = Outcome(self.name, number, str(error), seconds=seconds)
        self.flights.pop(number, None)
        self.batch.end(flight.job, outcome)
        return self.wake.set()

    async def _listen(self) -> None:
        """The server's messages: they tell at once what looking at the queue would tell later."""
        while True:
            async for message in self.server.messages():
                self._heard(str(message.get("type")), _table(message.get("data")))
            self.wake.set()
            await asyncio.sleep(RETRY)

    def _heard(self, kind: str, data: dict) -> None:
        number = data.get("prompt_id")
        flight = self.flights.get(number) if isinstance(number, str) else None
        if flight is None:
            return
        if kind == "execution_start":
            flight.running, flight.since = True, _now()
        elif kind == "progress":
            value, highest = data.get("value"), data.get("max")
            if all(isinstance(x, (int, float)) for x in (value, highest)):
                self.batch.step(self, value, highest)
        elif kind == "executing" and data.get("node") is not None:
            self.batch.step(self, None, None)
        elif kind in ("execution_success", "execution_error", "execution_interrupted", "executing"):
            flight.ended = True
            self.wake.set()

    async def _cancel(self, number: str) -> None:
        with contextlib.suppress(Unreachable):
            await self.server.cancel([number])

    def _return(self, number: str, flight: Flight, *, crashed: bool) -> None:
        self.batch.note("returned", flight.job, number, self.name)
        outcome = self.pool.give_back(flight.job.id, self.name, crashed=crashed)
        self.batch.ended([(flight.job.id, outcome)] if outcome else [])
        self.batch.others(self)

    def _lost(self, error: Exception) -> None:
        """The server does not answer: soon its prompts go to others, later it is not reckoned with."""
        now = _now()
        self._down_since = now if self._down_since is None else self._down_since
        if now - self._down_since >= self.batch.grace:
            lost = {number: flight for number, flight in self.flights.items() if not flight.fetching}
            if self.up:
                self.batch.say(f"{error}. " + (f"Its {len(lost)} prompts go back into the queue." if lost else ""))
            self.up = False
            for number, flight in lost.items():
                del self.flights[number]
                self.strays[number] = flight.job
                self._return(number, flight, crashed=flight.running)
        if not self.gone and now - self._down_since >= self.batch.patience:
            self.gone = True
            self.batch.ended(self.pool.leave(self.name))
        self.batch.show(self)
        self.batch.others(self)

    def _back(self) -> None:
        if self._down_since is not None and not self.up:
            self.batch.say(f"{self.name} answers.")
        self.up, self.gone, self._down_since = True, False, None
        self.pool.join(self.name)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _seconds(record: dict) -> float | None:
    """How long a prompt ran, by the server's own clock."""
    times = [data.get("timestamp") for _, data in messages_of(record)]
    times = [time for time in times if isinstance(time, (int, float)) and abs(time) < 1e15]
    return round((times[-1] - times[0]) / 1000, 3) if len(times) > 1 else None


def _table(value: object) -> dict:
    return value if isinstance(value, dict) else {}
