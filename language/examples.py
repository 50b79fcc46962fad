"""Examples and prompts in files of the user: JSON lines, or one prompt a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..untrusted import parse_json
from .settings import Example

PROMPT, ANSWER = ("prompt", "input", "text"), ("answer", "output")
_FORM = 'One example a line: {"prompt": "…", "answer": "…"}; "input" and "output", or "text" alone, are read too.'


def read_examples(file: Path, *, answered: bool = False) -> list[Example]:
    """The examples in a file of JSON lines; empty lines are passed over.

    Args:
        answered: whether each must have an answer.

    Raises:
        SettingsError: with the line's number: no JSON, no prompt, or something that is no text; or no example at all.
    """
    found = [_example(line, number, file, answered) for number, line in _lines(file)]
    if not found:
        raise SettingsError("The file holds no examples", file=file, hint=_FORM)
    return found


def read_prompts(file: Path) -> list[str]:
    """Prompts, one a line; of a file that ends in .jsonl the examples' prompts. Each once, in the file's order.

    Raises:
        SettingsError: there is none, or as :func:`read_examples`.
    """
    if file.suffix.lower() == ".jsonl":
        return list(dict.fromkeys(example.prompt for example in read_examples(file)))
    found = list(dict.fromkeys(line for _, line in _lines(file)))
    if not found:
        raise SettingsError("The file holds no prompts", file=file, hint="Write some, one a line.")
    return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not empty."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SettingsError("The file is not a text in UTF-8", file=file) from problem
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _example(line: str, number: int, file: Path, answered: bool) -> Example:
    where = f"Line {number}"
    try:
        data = parse_json(line)
    except ValueError as problem:
        raise SettingsError(f"{where} is not JSON: {problem}", file=file, hint=_FORM) from problem
    if not isinstance(data, dict):
        raise SettingsError(f"{where} is not an example", file=file, hint=_FORM)
    prompt, answer = _field(data, PROMPT, where, file), _field(data, ANSWER, where, file)
    if not prompt.strip():
        raise SettingsError(f"{where} has no prompt", file=file, hint=_FORM)
    if answered and not answer.strip():
        raise SettingsError(f"{where} has no answer", file=file, hint=_FORM)
    return Example(prompt, answer)


def _field(data: dict[str, Any], names: tuple[str, ...], where: str, file: Path) -> str:
    name = next((name for name in names if name in data), None)
    value = "" if name is None else data[name]
    if not isinstance(value, str):
        raise SettingsError(f"{where}: {name} is not text", file=file, hint=_FORM)
    return value
