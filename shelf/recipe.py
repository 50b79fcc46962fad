"""What a recipe asks for: every output with what it is made from, known and checked before anything runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import choices
from ..bases import open_base
from ..errors import GraftError
from ..jobs.merge import many as merging
from ..jobs.merge.merge import MergeSettings
from ..jobs.transfer.many import Job, find_files
from ..jobs.transfer.transfer import TransferSettings
from ..kernels.spectral import SubspaceSize
from .document import Entry, Mistakes, Table, load, one_of

LAYOUTS = ("same", *choices.File.layouts)
METHODS = ("auto", *choices.Transfer.methods)
REPORTS = ("md", "json")
_NAME = re.compile(r"[\w.-]*[\w-]")  # that every file system takes
_TRANSFER = {
    "threshold": (float,),
    "below_threshold": (str,),
    "match_blocks": (str,),
    "fill": (str,),
    "rank": (int,),
    "strength": (float,),
}
_MERGE = {
    "method": (str,),
    "rank": (int, str),
    "units": (str,),
    "density": (float,),
    "energy": (float,),
    "seed": (int,),
    "parameter_reweighting": (bool,),
    "output_reweighting": (bool,),
    "dtype": (str,),
}


@dataclass(frozen=True)
class Stage:
    """LoRAs of one base for another by one method, in one layout. files: input → output."""

    title: str
    job: Job
    files: dict[Path, Path]


@dataclass(frozen=True)
class Recipe:
    """stages, then merges, which may take what the stages make; ids: output → hash of all that decides its content."""

    file: Path
    output: Path
    stages: tuple[Stage, ...]
    merges: tuple[merging.Order, ...]
    ids: dict[Path, str]

    def name(self, output: Path) -> str:
        """An output as the manifest names it, the same on every machine."""
        return output.relative_to(self.output).as_posix()


def read(file: Path, *, device: str = "cpu") -> Recipe:
    """The recipe in a file. Relative names in it start from its folder.

    Raises:
        GraftError: it cannot be read as YAML.
        SettingsError: with the line and the field of every mistake: unknown fields and values, values out of range,
            bases that cannot be opened, LoRAs that are not there, outputs that meet.
    """
    file = file.absolute()
    mistakes = Mistakes(file)
    top = Table(load(file), mistakes)
    reader = _Reader(file.parent, mistakes, device)
    reader.read(top)
    mistakes.end()
    return Recipe(file, reader.output, tuple(reader.stages), tuple(reader.merges), reader.ids)


class _Reader:
    def __init__(self, folder: Path, mistakes: Mistakes, device: str):
        self.folder, self.mistakes, self.device = folder, mistakes, device
        self.output, self.cache = folder, None
        self.bases: dict[str, Path] = {}
        self.stages: list[Stage] = []
        self.merges: list[merging.Order] = []
        self.ids: dict[Path, str] = {}

    def read(self, top: Table) -> None:
        output = top.get("output", str, need=True)
        self.output = self._path(output.value if output else "?")
        try:
            if output and self.output.is_file():
                self.mistakes.add(output, "the output must be a folder, and this is a file")
        except OSError as error:
            self._at(output, error)
        cache = top.get("cache", str)
        self.cache = self._path(cache.value) if cache else None
        self._read_bases(top)
        transfers, merges = top.get("transfers", list), top.get("merges", list)
        for entry in transfers.value if transfers else ():
            self._transfer(Table(entry, self.mistakes))
        for entry in merges.value if merges else ():
            self._merge(Table(entry, self.mistakes))
        top.end()
        if not (transfers and transfers.value) and not (merges and merges.value) and not self.mistakes.found:
            self.mistakes.add(top.entry, "there is nothing to do: neither transfers nor merges")

    def _read_bases(self, top: Table) -> None:
        entry = top.get("bases", dict)
        for name, path in (entry.value if entry else {}).items():
            if not isinstance(path.value, str):
                self.mistakes.add(path, "this must be the path of a base")
            elif _name_of(path, name, self.mistakes):
                self.bases[name] = self._path(path.value)
                try:
                    open_base(self.bases[name])
                except (GraftError, OSError) as error:
                    self._at(path, error)

    def _transfer(self, table: Table) -> None:
        name = table.get("name", str)
        if name and not _name_of(name, name.value, self.mistakes):
            return
        loras = table.each("loras", str, need=True)
        source, targets = self._base(table.get("source", str, need=True)), table.each("targets", str, need=True)
        methods = self._words(table, "methods", METHODS) or [choices.Transfer.method]
        layouts = self._words(table, "layouts", LAYOUTS) or [choices.File.layout]
        given = self._settings(table, _TRANSFER, TransferSettings)
        sizes = {name: table.value(name, kind) for name, kind in (("k_share", float), ("k", int), ("energy", float))}
        how: dict[str, Any] = {"dtype": self._menu(table, "dtype", choices.File.dtypes), "report": self._report(table)}
        table.end()
        ways = [(self._base(target), method, layout) for target in targets for method in methods for layout in layouts]
        try:
            size = SubspaceSize(k=sizes["k"], share=sizes["k_share"], energy=sizes["energy"])
        except GraftError as error:
            return self.mistakes.of(table.entry, error)
        for there, method, layout in ways:
            if source is None or there is None or given is None:
                self._find(loras, self.output)  # what is wrong there is told all the same
                continue
            settings = TransferSettings(method=method, size=size, **given)
            job = Job(source[1], there[1], settings, layout=layout, cache=self.cache, device=self.device, **how)
            way = method if layout == choices.File.layout else f"{method}-{layout}"
            folder = self.output / (name.value if name else "") / there[0] / way
            self._stage(table.entry, loras, f"{source[0]} → {there[0]}, {way}", job, folder)

    def _stage(self, entry: Entry, loras: Sequence[Entry], title: str, job: Job, folder: Path) -> None:
        files = self._find(loras, folder)
        for file, output in files.items():
            self._claim(entry, output, "transfer", self._relative(file), job)
        self.stages.append(Stage(title, job, files))

    def _find(self, loras: Sequence[Entry], folder: Path) -> dict[Path, Path]:
        """Input → output in a folder; what matches nothing is noted."""
        files: dict[Path, Path] = {}
        for lora in loras:
            try:
                found = find_files([lora.value], folder, below=self.folder)
            except (GraftError, OSError, RuntimeError) as error:  # the last: no such user
                self._at(lora, error)
                continue
            found = {file: output for file, output in found.items() if not file.is_relative_to(self.output)}
            if not found:
                self.mistakes.add(lora, "all that this matches is in the output folder")
            files |= found
        return files

    def _merge(self, table: Table) -> None:
        name = table.get("name", str, need=True)
        base = table.get("base", str)
        opened = self._base(base) if base else None
        sources = [source for entry in table.each("loras", str, dict, need=True) if (source := self._source(entry))]
        given = self._settings(table, _MERGE, MergeSettings)
        layout = self._menu(table, "layout", LAYOUTS) or choices.File.layout
        report = self._report(table)
        table.end()
        if name is None or not _name_of(name, name.value, self.mistakes) or given is None or not sources:
            return
        order = merging.Order(
            tuple(sources),
            self.output / "merged" / f"{name.value}.safetensors",
            MergeSettings(**given),
            opened[1] if opened else None,
            layout,
            report,
            self.device,
        )
        names = [[self._relative(file), *strengths] for file, *strengths in sources]
        self._claim(table.entry, order.output, "merge", names, replace(order, loras=(), output=Path("")))
        self.merges.append(order)

    def _source(self, entry: Entry) -> merging.Source | None:
        """A LoRA of a merge: a path, or a mapping with its strengths."""
        if isinstance(entry.value, str):
            path, model, clip = entry, 1.0, None
        else:
            table = Table(entry, self.mistakes)
            path, model = table.get("file", str, need=True), table.value("strength", float, default=1.0)
            clip = table.value("clip", float)
            table.end()
        if path is None:
            return None
        file = self._path(path.value)
        if not _is_file(file) and file not in self.ids:
            self.mistakes.add(path, "there is no such file, and no transfer of this recipe makes it")
        if not all(map(math.isfinite, (model, clip or 0.0))):
            self.mistakes.add(entry, "a strength must be a finite number")
        return file, model, model if clip is None else clip

    def _settings(self, table: Table, known: dict[str, tuple[type, ...]], settings: type) -> dict[str, Any] | None:
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

    def _words(self, table: Table, name: str, known: Sequence[str]) -> list[str]:
        return [entry.value for entry in table.each(name, str) if one_of(entry, known, self.mistakes)]

    def _menu(self, table: Table, name: str, words: Sequence[str]) -> str | None:
        entry = table.get(name, str)
        return entry.value if entry and one_of(entry, words, self.mistakes) else None

    def _report(self, table: Table) -> str | None:
        report = self._menu(table, "report", REPORTS)
        return f".{report}" if report else None

    def _base(self, entry: Entry | None) -> tuple[str, Path] | None:
        """(name, path) of a base that is named under ``bases``."""
        if entry is None or not one_of(entry, [*self.bases] or ["a name under bases"], self.mistakes):
            return None
        return entry.value, self.bases[entry.value]

    def _claim(self, entry: Entry, output: Path, kind: str, what: Any, how: Any) -> None:
        if output in self.ids:
            hint = "Give one of them another name: it is a folder above its outputs."
            self.mistakes.add(entry, f"two outputs would be {output.relative_to(self.output).as_posix()}.", hint)
        values = asdict(how)
        for name in ("cache", "device", "overwrite", "loras", "output"):
            values.pop(name, None)
        for name in ("source", "target", "base"):
            values[name] = self._relative(Path(values[name])) if values.get(name) else None
        text = json.dumps([kind, what, values], sort_keys=True, default=str)
        self.ids[output] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]

    def _path(self, text: str) -> Path:
        return Path(os.path.normpath(self.folder / os.path.expanduser(text)))

    def _relative(self, path: Path) -> str:
        """The path as seen from the recipe: the same where the folder has another place."""
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # another drive
            return path.as_posix()

    def _at(self, entry: Entry, error: GraftError | OSError | RuntimeError) -> None:
        if isinstance(error, GraftError):
            return self.mistakes.of(entry, error)
        return self.mistakes.add(entry, str(error))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any file's
        return False


def _name_of(entry: Entry, name: str, mistakes: Mistakes) -> bool:
    """Whether a name can be that of a folder or file anywhere."""
    if _NAME.fullmatch(name) and len(name) <= 100:
        return True
    mistakes.add(entry, f"{name[:60]!r} cannot be a file's name:", "letters, digits, _, - and . inside.")
    return False
