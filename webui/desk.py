"""Where page and API hand jobs in: checked, lined up, and told about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .check import checked
from .host import Host
from .jobs import Job, Queue
from .tasks import look_up, run, title_of


class Desk:
    """One host with its queue."""

    def __init__(self, host: Host):
        self.host, self.queue = host, Queue(host, run)

    def start(self, kind: str, given: Mapping[str, Any]) -> Job:
        """Check what was asked for and line it up.

        Raises:
            GraftError: the settings are wrong, a file is not there, or the new one is.
        """
        values = checked(kind, given)
        look_up(kind, values, self.host)
        return self.queue.submit(kind, title_of(kind, values), values)


def told(job: Job, *, whole: bool = False) -> dict[str, Any]:
    """A job as JSON holds it; whole: with its report."""
    facts: dict[str, Any] = {
        "id": job.number,
        "kind": job.kind,
        "title": job.title,
        "state": job.state,
        "stopping": job.stopping,
        "done": job.done,
        "total": job.total,
        "label": job.label,
        "seconds": job.elapsed,
        "seconds_left": job.left,
        "error": job.error,
        "lora": job.result.lora if job.result else "",
        "file": job.result.file.name if job.result and job.result.file else "",
    }
    if whole:
        facts["report"] = job.result.data if job.result else None
        facts["markdown"] = job.result.markdown if job.result else ""
    return facts
