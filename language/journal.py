"""A file that grows by one line of JSON for each piece of work done, so that a run goes on where it was broken off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..untrusted import parse_json


class Journal:
    """Records of one run, in memory and in a file; a file of another run, or a damaged end of it, is written anew.

    Without a folder nothing is kept. A disk that is full does not end the run: `trouble` then says what happened.
    """

    def __init__(self, folder: Path | None, name: str, identity: str):
        self.path = None if folder is None else folder / f"{name}_{identity[:24]}.jsonl"
        self.records: list[dict[str, Any]] = []
        self.trouble = ""
        if self.path is not None and self.path.is_file():
            self._load(self.path)

    def _load(self, path: Path) -> None:
        whole = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    record = parse_json(line)
                except ValueError:
                    break
                if not line.endswith(b"\n") or not isinstance(record, dict):
                    break
                self.records.append(record)
                whole += len(line)
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    def add(self, record: dict[str, Any]) -> None:
        """Keep one more record."""
        self.records.append(record)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            self.trouble = f"What was written could not be kept for another run: {problem.strerror or problem}."
