"""Who does what. No network here: plain bookkeeping that makes every job end exactly once."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from .jobs import Job

CRASHES = 3  # servers that may go down while they run one job


@dataclass(frozen=True)
class Outcome:
    """How a job ended. error: why it has no result; files: what it has left, where."""

    server: str
    prompt_id: str | None = None
    error: str | None = None
    files: list = field(default_factory=list)
    seconds: float | None = None


class Pool:
    """Jobs that wait, the server each other one is at, and how the rest ended.

    Every change of hands names the server that lets go, and counts only if the job is there: what a server says
    too late is without effect.
    """

    def __init__(self, jobs: list[Job], servers: list[str]):
        self.jobs = {job.id: job for job in jobs}
        self.servers = set(servers)
        self.outcomes: dict[str, Outcome] = {}
        self._waiting = deque(self.jobs)
        self._at: dict[str, str] = {}
        self._refused: dict[str, dict[str, str]] = {}
        self._crashes: Counter[str] = Counter()

    @property
    def finished(self) -> bool:
        return len(self.outcomes) == len(self.jobs)

    def settled(self, job: str) -> bool:
        return job in self.outcomes

    def holder(self, job: str) -> str | None:
        """The server that the job is at."""
        return self._at.get(job)

    def may(self, job: str, server: str) -> bool:
        """Whether the server has not refused the job."""
        return server not in self._refused.get(job, {})

    def take(self, server: str) -> Job | None:
        """The next job for a server, if there is one that it has not refused."""
        for job in self._waiting:
            if self.may(job, server):
                self._waiting.remove(job)
                self._at[job] = server
                return self.jobs[job]
        return None

    def claim(self, job: str, server: str) -> bool:
        """A server turns out to hold a job that waits here: it keeps it."""
        if job not in self._waiting:
            return False
        self._waiting.remove(job)
        self._at[job] = server
        return True

    def give_back(self, job: str, server: str, *, crashed: bool = False) -> Outcome | None:
        """A server lost a job; the next one takes it first. Its outcome, if it brought down too many servers.

        Args:
            crashed: the server went down while the job ran.
        """
        if self._at.get(job) != server:
            return None
        self._crashes[job] += crashed
        if self._crashes[job] >= CRASHES:
            why = f"a server went down {CRASHES} times while it ran this; it is not tried again"
            return self.settle(job, Outcome(server, error=why))
        del self._at[job]
        self._waiting.appendleft(job)
        return None

    def refuse(self, job: str, server: str, why: str) -> list[tuple[str, Outcome]]:
        """A server does not take a job; others may. The outcomes of jobs that nobody takes."""
        if self._at.get(job) == server:
            del self._at[job]
            self._waiting.appendleft(job)
        self._refused.setdefault(job, {})[server] = why
        return self.unwanted()

    def leave(self, server: str) -> list[tuple[str, Outcome]]:
        """A server is not reckoned with any more. The outcomes of jobs that nobody else takes."""
        self.servers.discard(server)
        return self.unwanted()

    def join(self, server: str) -> None:
        self.servers.add(server)

    def unwanted(self) -> list[tuple[str, Outcome]]:
        """Settle the waiting jobs that every server refuses."""
        everyone = self.servers
        found = [j for j in self._waiting if everyone and self._refused.get(j, {}).keys() >= everyone]
        settled = []
        for job in found:
            server, why = next(iter(self._refused[job].items()))
            settled.append((job, self.settle(job, Outcome(server, error=why))))
        return settled

    def settle(self, job: str, outcome: Outcome) -> Outcome | None:
        """Write down how a job ended; None when that was known already."""
        if job in self.outcomes:
            return None
        self._at.pop(job, None)
        if job in self._waiting:
            self._waiting.remove(job)
        self.outcomes[job] = outcome
        return outcome
