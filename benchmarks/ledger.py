"""Figures in a file of JSON lines, kept as soon as they are measured; what is there is not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


class Ledger:
    """found: figures by key."""

    def __init__(self, file: Path):
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self.found: dict[str, dict] = {row.pop("key"): row for row in map(json.loads, lines)}

    def measured(self, key: str, measure: Callable[[], dict]) -> dict:
        if key not in self.found:
            self.found[key] = measure()
            with self.file.open("a") as file:
                print(json.dumps({"key": key} | self.found[key]), file=file, flush=True)
            print(key, self.found[key], flush=True)
        return self.found[key]
