"""What happened so far, as JSON lines: one event each, on disk before the next step. A second call reads it.

Batches on servers and recipes write the same events.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import GraftError
from ..untrusted import parse_json

NAME = "manifest.jsonl"
_BEGINS = b'{"event": "'
EVENTS = ("batch", "queued", "returned", "done", "failed")


@dataclass
class Past:
    """What earlier calls left. done: ids of jobs that have their result; queued: prompt id → (server, job) without an
    end that is known; made: file → the job that it is the result of."""

    done: set[str] = field(default_factory=set)
    queued: dict[str, tuple[str, str]] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    def take(self, entry: dict) -> None:
        """One event, as the manifest has it.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is none.
        """
        event = entry["event"]
        if event not in EVENTS:
            raise ValueError(event)
        if not all(isinstance(entry.get(name, ""), str) for name in ("job", "prompt_id", "server")):
            raise ValueError("a name that is no text")
        if event == "done":
            self.done.add(entry["job"])
            files = entry.get("files")
            self.made |= {f: entry["job"] for f in (files if isinstance(files, list) else ()) if isinstance(f, str)}
        if event == "queued":
            self.queued[entry["prompt_id"]] = (entry["server"], entry["job"])
        if event in ("returned", "done", "failed"):
            self.queued.pop(entry.get("prompt_id", ""), None)


class Manifest:
    """An open manifest, held by this process alone.

    Raises:
        GraftError: another batch writes it, or the file is something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.past = Past()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")  # noqa: SIM115, closed by close()
        try:
            _lock(self._file, path)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def write(self, event: str, **what) -> None:
        """Append one event."""
        line = {"event": event, "time": round(time.time(), 3), **what}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        for number, line in enumerate(data.splitlines(keepends=True)):
            try:
                self.past.take(parse_json(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                cut = not line.endswith(b"\n")  # half an event: the machine went down while it was written
                if number == 0 and not (cut and (line.startswith(_BEGINS) or _BEGINS.startswith(line))):
                    raise GraftError(
                        "this is not the manifest of a batch", file=self.path, hint="Choose another folder."
                    ) from error
                if cut:
                    self._file.truncate(len(data) - len(line))
                    return
        if data and not data.endswith(b"\n"):
            self._file.write(b"\n")


def past(path: Path) -> Past:
    """What a manifest tells, without holding it; nothing where there is none. Lines that are no events are left out."""
    found = Past()
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                found.take(parse_json(line))
    return found


def _lock(file, path: Path) -> None:
    """Hold the file until this process ends; the system lets go by itself."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(1 << 40)  # a byte that no one writes: others may still read the file
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise GraftError(
            "another batch is running in this folder", file=path, hint="Wait for it, or choose another folder."
        ) from error
