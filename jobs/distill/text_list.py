"""The list in a language model's answer, as single lines.

Models were asked for a numbered list and answer with one, or with bullets, quotes, JSON, everything in one line, a
list between friendly words, a list that is cut off or never ends. :func:`entries` finds what is meant as an entry;
whether that makes a good prompt is not its concern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...untrusted import parse_json, real_text

LONGEST_ANSWER = 100_000  # characters read of one answer
MOST = 1000  # entries of one answer
_THOUGHT = re.compile(r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*(?:```|~~~).*$", re.MULTILINE)
_MARK = re.compile(
    r"^\s*(?:[-*•–]\s+|\W{0,3}(?:prompt\s*|#\s?)?\d{1,4}\W{0,3}[.):]\W{0,3}(?:\s+|(?=[\"“'‘「])))", re.IGNORECASE
)
_NUMBER_WITHIN = re.compile(r"(?:^|(?<=[\s.;,!?]))(\d{1,4})[.)]\s+")
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"(\s*:)?|“([^”\n]*)”')
_PAIRS = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»", "「": "」", "`": "`"}


def entries(answer: str) -> list[str]:
    """The entries of the list in `answer`, at most MOST; nothing where there is none.

    Of an answer longer than LONGEST_ANSWER the rest is not read. What a model thinks aloud (``<think>``) is no part
    of it. Marks of the list, quotes and emphasis around an entry are taken off. Every entry is one line.
    """
    text = _THOUGHT.sub("", real_text(answer[:LONGEST_ANSWER]))
    text = _FENCE.sub("", text).strip()
    found = _json(text) if text[:1] in ("[", "{") else None
    if found is None:
        lines = [line for line in text.splitlines() if line.strip()]
        found = _apart(lines[0]) if len(lines) == 1 else _of_lines(lines)
    return [entry for entry in map(_bare, found[:MOST]) if entry]


def _of_lines(lines: list[str]) -> list[str]:
    """Marked lines where there are at least two; what comes before the first may be the entry that was asked for."""
    marked = [i for i, line in enumerate(lines) if _MARK.match(line)]
    if len(marked) < 2:
        return lines
    return [*lines[: min(marked[0], 1)], *(lines[i] for i in marked)]


def _apart(line: str) -> list[str]:
    """One line that holds a whole list: numbered, quoted, or between semicolons."""
    numbers = list(_NUMBER_WITHIN.finditer(line))
    steps = [int(b[1]) - int(a[1]) for a, b in zip(numbers, numbers[1:], strict=False)]
    if steps and all(step == 1 for step in steps):
        ends = [hit.start() for hit in numbers[1:]] + [len(line)]
        before = [line[: numbers[0].start()]]
        return before + [line[hit.end() : end] for hit, end in zip(numbers, ends, strict=True)]
    quoted = _quoted(line)
    if len(quoted) > 1:
        return quoted
    return line.split(";") if line.count(";") > 1 else [line]


def _json(text: str) -> list[str] | None:
    """The strings of a JSON list or of objects; of one that is cut off, the strings up to there; None of no JSON."""
    try:
        return list(_strings(parse_json(text)))
    except (ValueError, RecursionError):
        return _quoted(text) or None


def _quoted(text: str) -> list[str]:
    """What stands between quotes, names of JSON's pairs left out."""
    return [(a or b).replace('\\"', '"') for a, colon, b in _QUOTED.findall(text) if not colon]


def _strings(data: Any) -> Iterator[str]:
    """Every string in lists; of an object that is an entry its prompt, or else its longest string."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, list):
        for value in data:
            yield from _strings(value)
    elif isinstance(data, dict):
        words = [value for value in data.values() if isinstance(value, str)]
        named = [data[key] for key in ("prompt", "text", "caption", "description") if isinstance(data.get(key), str)]
        if named or words:
            yield named[0] if named else max(words, key=len)
        for value in data.values():
            if isinstance(value, list | dict):
                yield from _strings(value)


def _bare(entry: str) -> str:
    """The entry without its mark, quotes, emphasis, and the comma that stood behind it; spaces are single."""
    entry = " ".join(_MARK.sub("", entry, count=1).split())
    for _ in range(4):
        before = entry
        entry = entry.strip().rstrip(",;").strip()
        for sign in ("**", "__", "*"):
            if entry.startswith(sign) and entry.endswith(sign) and len(entry) > 2 * len(sign):
                entry = entry[len(sign) : -len(sign)]
        if len(entry) > 1 and _PAIRS.get(entry[0]) == entry[-1]:
            entry = entry[1:-1]
        if entry == before:
            break
    return entry.strip()
