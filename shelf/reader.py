"""What the sections of a recipe have in common: its bases, the outputs known so far, and how fields are read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from .. import choices
from ..bases import open_base
from ..errors import GraftError
from ..jobs.transfer.many import find_files
from .document import Entry, Mistakes, Table, one_of

LAYOUTS = ("same", *choices.File.layouts)
REPORTS = ("md", "json")
_NAME = re.compile(r"[\w.-]*[\w-]")  # that every file system takes
_PARTS = ("source_parts", "target_parts")


class Pairing(NamedTuple):
    """LoRAs of one base and the others that they are for. folder: above their outputs. source: (name, path) of a base,
    None where it is wrong."""

    folder: Path
    loras: list[Entry]
    source: tuple[str, Path] | None
    targets: list[Entry]


class Reader:
    """A recipe while it is read.

    folder: of the recipe. output, cache: of the results and of subspaces. bases: name → path.
    ids: output → hash of all that decides its content.
    """

    def __init__(self, folder: Path, mistakes: Mistakes, device: str):
        self.folder, self.mistakes, self.device = folder, mistakes, device
        self.output, self.cache = folder, None
        self.bases: dict[str, Path] = {}
        self.ids: dict[Path, str] = {}

    def read(self, top: Table) -> None:
        """The fields that all sections look at."""
        output = top.get("output", str, need=True)
        self.output = self.path(output.value if output else "?")
        if output:
            try:
                if self.output.is_file():
                    self.mistakes.add(output, "the output must be a folder, and this is a file")
            except OSError as error:
                self.at(output, error)
        cache = top.get("cache", str)
        self.cache = self.path(cache.value) if cache else None
        entry = top.get("bases", dict)
        for name, path in (entry.value if entry else {}).items():
            if not isinstance(path.value, str):
                self.mistakes.add(path, "this must be the path of a base")
            elif self.named(path, name):
                self.bases[name] = self.path(path.value)
                try:
                    open_base(self.bases[name])
                except (GraftError, OSError) as error:
                    self.at(path, error)

    def find(self, loras: Sequence[Entry], folder: Path) -> dict[Path, Path]:
        """Input → output in a folder; what matches nothing is noted."""
        files: dict[Path, Path] = {}
        for lora in loras:
            try:
                found = find_files([lora.value], folder, below=self.folder)
            except (GraftError, OSError, RuntimeError) as error:  # the last: no such user
                self.at(lora, error)
                continue
            found = {file: output for file, output in found.items() if not file.is_relative_to(self.output)}
            if not found:
                self.mistakes.add(lora, "all that this matches is in the output folder")
            files |= found
        return files

    def settings(self, table: Table, known: dict[str, tuple[type, ...]], settings: type) -> dict[str, Any] | None:
        """The fields of settings that are given; None when one of them is wrong."""
        found: dict[str, Any] = {}
        good = True
        for name, kinds in known.items():
            entry = table.get(name, *kinds)
            if entry is None:
                good = good and name not in table
                continue
            try:
                settings(**{name: entry.value})
                found[name] = entry.value
            except GraftError as error:
                self.mistakes.of(entry, error)
                good = False
        return found if good else None

    def words(self, table: Table, name: str, known: Sequence[str]) -> list[str]:
        return [entry.value for entry in table.each(name, str) if one_of(entry, known, self.mistakes)]

    def menu(self, table: Table, name: str, words: Sequence[str]) -> str | None:
        entry = table.get(name, str)
        return entry.value if entry and one_of(entry, words, self.mistakes) else None

    def report(self, table: Table) -> str | None:
        report = self.menu(table, "report", REPORTS)
        return f".{report}" if report else None

    def base(self, entry: Entry | None) -> tuple[str, Path] | None:
        """(name, path) of a base that is named under ``bases``."""
        if entry is None or not one_of(entry, [*self.bases] or ["a name under bases"], self.mistakes):
            return None
        return entry.value, self.bases[entry.value]

    def pairing(self, table: Table) -> Pairing | None:
        """What transfers and distillations begin with; None where the name is none."""
        name = table.get("name", str)
        if name and not self.named(name, name.value):
            return None
        loras = table.each("loras", str, need=True)
        source, targets = self.base(table.get("source", str, need=True)), table.each("targets", str, need=True)
        return Pairing(self.output / (name.value if name else ""), loras, source, targets)

    def named(self, entry: Entry, name: str) -> bool:
        """Whether a name can be that of a folder or file anywhere; noted if not."""
        if _NAME.fullmatch(name) and len(name) <= 100:
            return True
        self.mistakes.add(entry, f"{name[:60]!r} cannot be a file's name:", "letters, digits, _, - and . inside.")
        return False

    def claim(self, entry: Entry, output: Path, kind: str, what: Any, how: Any) -> None:
        """Take down an output, and what decides its content: what it is made of, and how."""
        if output in self.ids:
            hint = "Give one of them another name: it is a folder above its outputs."
            self.mistakes.add(entry, f"two outputs would be {output.relative_to(self.output).as_posix()}.", hint)
        values = asdict(how)
        for name in ("cache", "device", "overwrite", "lora", "loras", "output"):
            values.pop(name, None)
        for name in {"source", "target", "base"} | {*_PARTS} & values.keys():
            values[name] = self.relative(Path(values[name])) if values.get(name) else None
        text = json.dumps([kind, what, values], sort_keys=True, default=str)
        self.ids[output] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]

    def path(self, text: str) -> Path:
        return Path(os.path.normpath(self.folder / os.path.expanduser(text)))

    def relative(self, path: Path) -> str:
        """The path as seen from the recipe: the same where the folder has another place."""
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # another drive
            return path.as_posix()

    def at(self, entry: Entry, error: GraftError | OSError | RuntimeError) -> None:
        if isinstance(error, GraftError):
            return self.mistakes.of(entry, error)
        return self.mistakes.add(entry, str(error))
