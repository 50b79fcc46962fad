"""A YAML file as values that know where they stand, so that every mistake is told with its line and its field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import GraftError, SettingsError
from ..untrusted import one_line, real_text

LONGEST = 4 << 20  # bytes
DEEPEST = 12
SHOWN = 20  # mistakes told at once


@dataclass(frozen=True)
class Entry:
    """value: a dict or list of entries, or a text, number, True, False, None; field: as ``merges[1].name``."""

    value: Any
    line: int
    field: str


@dataclass
class Mistakes:
    """What is wrong in a file, gathered so that all of it can be told at once."""

    file: Path
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, entry: Entry, what: str, hint: str | None = None) -> None:
        where = f"line {entry.line}, {entry.field}" if entry.field else f"line {entry.line}"
        mistake = entry.line, f"{where}: {what}" + (f" {hint}" if hint else "")
        if mistake not in self.found:  # of several stages of one entry
            self.found.append(mistake)

    def of(self, entry: Entry, error: GraftError) -> None:
        """An error that some check of a value raised."""
        where = f" ({error.file})" if error.file else ""
        self.add(entry, error.what + where, error.hint)

    def end(self) -> None:
        """Raise what was found, if anything was."""
        if self.found:
            lines = [text for _, text in sorted(self.found, key=lambda one: one[0])]
            more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            count = f"{len(lines)} mistake{'s' * (len(lines) > 1)}"
            raise SettingsError(
                "\n".join([f"{self.file.name} has {count}; nothing was begun", *map(one_line, lines[:SHOWN]), *more])
            )


class Table:
    """A mapping whose fields are asked for by name and kind. One that is wrong is noted and counts as absent."""

    def __init__(self, entry: Entry, mistakes: Mistakes):
        self.entry, self.mistakes = entry, mistakes
        self.fields: dict[str, Entry] = entry.value if isinstance(entry.value, dict) else {}
        self.asked: set[str] = set()
        if not isinstance(entry.value, dict):
            mistakes.add(entry, "this must be a mapping, lines of `name: value`")

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str, *kinds: type, need: bool = False) -> Entry | None:
        """The field, if it is there and of one of these kinds (a whole number is a float, too)."""
        self.asked.add(name)
        entry = self.fields.get(name)
        if entry is None:
            if need and isinstance(self.entry.value, dict):
                self.mistakes.add(self.entry, f"{name} is missing")
            return None
        if float in kinds and type(entry.value) is int:
            entry = Entry(float(entry.value), entry.line, entry.field)
        if type(entry.value) in kinds:
            return entry
        self.mistakes.add(
            entry, f"this must be {' or '.join(_KINDS[kind] for kind in kinds)}, not {shown(entry.value)}"
        )
        return None

    def value(self, name: str, *kinds: type, default: Any = None) -> Any:
        found = self.get(name, *kinds)
        return default if found is None else found.value

    def each(self, name: str, *kinds: type, need: bool = False) -> list[Entry]:
        """The values of a field that holds one or a list of them."""
        entry = self.get(name, list, *kinds, need=need)
        if entry is None:
            return []
        if type(entry.value) is not list:
            return [entry]
        if not entry.value:
            self.mistakes.add(entry, "the list is empty")
        good = [one for one in entry.value if type(one.value) in kinds]
        for one in entry.value:
            if type(one.value) not in kinds:
                words = " or ".join(_KINDS[kind] for kind in kinds)
                self.mistakes.add(one, f"this must be {words}, not {shown(one.value)}")
        return good

    def end(self) -> None:
        """Note every field that nobody asked for."""
        for name, entry in self.fields.items():
            if name not in self.asked:
                near = get_close_matches(name, self.asked, 1)
                known = ", ".join(sorted(self.asked))
                self.mistakes.add(
                    entry, "there is no such field.", f"Did you mean {near[0]}?" if near else f"There is: {known}."
                )


_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def shown(value: object) -> str:
    """A value as a message names it."""
    if isinstance(value, (dict, list)):
        return _KINDS[type(value)]
    return "nothing" if value is None else repr(value)[:60]


def load(file: Path) -> Entry:
    """The one document of a YAML file.

    Raises:
        GraftError: it cannot be read, is no YAML, is longer than LONGEST or nested deeper than DEEPEST, names one
            field twice, or holds anchors and aliases.
    """
    import yaml

    data = file.read_bytes()
    if len(data) > LONGEST:
        raise GraftError(f"the recipe is longer than {LONGEST >> 20} MB", file=file, hint="Name files by patterns.")
    try:
        depth = 0
        for event in yaml.parse(data.decode("utf-8-sig"), Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise _wrong(file, f"nested deeper than {DEEPEST} levels", event.start_mark)
            if isinstance(event, yaml.AliasEvent):
                raise _wrong(
                    file, "anchors and aliases (& and *) are not taken", event.start_mark, "Put a pattern in quotes."
                )
        loader = yaml.SafeLoader(data.decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            raise GraftError("the recipe is empty", file=file)
        return _entry(node, loader, "", file)
    except UnicodeDecodeError as error:
        raise GraftError("the recipe is no text in UTF-8", file=file) from error
    except yaml.MarkedYAMLError as error:
        what = " ".join(filter(None, (error.context, error.problem)))
        raise _wrong(file, f"this is no YAML: {what}", error.problem_mark) from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, GraftError):
            raise
        raise GraftError(f"the recipe is no YAML: {error}", file=file) from error


def _entry(node: Any, loader: Any, name: str, file: Path) -> Entry:
    import yaml

    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Entry([_entry(one, loader, f"{name}[{i}]", file) for i, one in enumerate(node.value)], line, name)
    if not isinstance(node, yaml.MappingNode):
        value = loader.construct_object(node)
        if isinstance(value, str) and ("\0" in value or real_text(value) != value):
            raise GraftError(f"line {line}, {name}: a character that no file name and no setting has", file=file)
        return Entry(value, line, name)
    fields: dict[str, Entry] = {}
    for key, value in _pairs(node):
        if key in fields:
            raise GraftError(f"line {value.start_mark.line + 1}: {key} is there twice", file=file)
        fields[key] = _entry(value, loader, f"{name}.{key}" if name else key, file)
        fields[key] = Entry(fields[key].value, _line_of(node, key), fields[key].field)
    return Entry(fields, line, name)


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    for key, value in node.value:
        yield str(key.value) if isinstance(key.value, str) else "?", value


def _line_of(node: Any, name: str) -> int:
    return next(key.start_mark.line + 1 for key, _ in node.value if key.value == name or name == "?")


def _wrong(file: Path, what: str, mark: Any, hint: str | None = None) -> GraftError:
    return GraftError(f"line {mark.line + 1}: {what}" if mark else what, file=file, hint=hint)


def one_of(entry: Entry, known: Sequence[str], mistakes: Mistakes) -> bool:
    """Whether a text is on a list; noted if not."""
    if entry.value in known:
        return True
    near = get_close_matches(str(entry.value), known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"Choose {', '.join(known)}."
    mistakes.add(entry, f"unknown {_kind_of(entry)} {shown(entry.value)}.", hint)
    return False


def _kind_of(entry: Entry) -> str:
    """What one value of a field is: ``method`` of ``transfers[0].methods[1]``."""
    return entry.field.rpartition(".")[2].partition("[")[0].removesuffix("s")
