"""What came in for a job, checked against the table of fields: from the page, or from a script through the API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import SettingsError
from .fields import JOBS, Field

LONGEST = 100_000  # letters of a text, and of a list of prompts
MOST = 10_000  # LoRAs in a list


def checked(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A value for every field of a kind of job: what was given, else the default.

    Raises:
        SettingsError: an unknown kind or field, or a value that the field does not take; it is named.
    """
    if kind not in JOBS:
        raise SettingsError(f"unknown job {kind!r}", hint=f"Choose {', '.join(JOBS)}.")
    if not isinstance(given, Mapping):
        raise SettingsError("the settings of a job are an object of names and values")
    fields = {field.name: field for field in JOBS[kind]}
    strange = [name for name in given if name not in fields]
    if strange:
        raise SettingsError(f"{kind} has no {str(strange[0])[:80]!r}", hint=f"It has {', '.join(fields)}.")
    return {name: value_of(field, given.get(name)) for name, field in fields.items()}


def value_of(field: Field, value: Any) -> Any:
    """The value in the field's own type; the default where nothing is given.

    Raises:
        SettingsError: the field does not take it.
    """
    if value is None or value == "" or value == []:
        if field.needed:
            raise SettingsError(f"{field.name} is missing", hint=field.help)
        return field.default
    return _READERS[field.kind](field, value)


def _choice(field: Field, value: Any) -> str:
    if value not in field.choices:
        raise _wrong(field, value, f"Choose {', '.join(field.choices)}.")
    return value


def _number(field: Field, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e30 or not math.isfinite(value):
        raise _wrong(field, value, "It is a number.")
    low, high = field.low, field.high
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"from {low:g}" if high is None else f"up to {high:g}" if low is None else f"from {low:g} to {high:g}"
        raise _wrong(field, value, f"It is a number {bounds}.")
    return float(value)


def _whole(field: Field, value: Any) -> int:
    number = _number(field, value)
    if number != int(number):
        raise _wrong(field, value, "It is a whole number.")
    return int(number)


def _flag(field: Field, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(field, value, "It is true or false.")
    return value


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise _wrong(field, value, f"It is a text of at most {LONGEST} letters.")
    return value


def _lines(field: Field, value: Any) -> tuple[str, ...]:
    lines = value if isinstance(value, (list, tuple)) else _text(field, value).splitlines()
    if not all(isinstance(line, str) for line in lines) or sum(map(len, lines)) > LONGEST:
        raise _wrong(field, value, f"It is a list of texts, of at most {LONGEST} letters together.")
    return tuple(line.strip() for line in lines if line.strip())


def _shelf(field: Field, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MOST or not all(isinstance(name, str) for name in value):
        raise _wrong(field, value, "It is a list of names.")
    return tuple(dict.fromkeys(value))


def _loras(field: Field, value: Any) -> tuple[tuple[str, float, float], ...]:
    from .prompt import listed, tags

    found = tags(_text(field, value)) if isinstance(value, str) else listed(value)
    if not found:
        raise _wrong(field, value, "Name at least one, as <lora:name:0.8>.")
    return tuple(found)


def _wrong(field: Field, value: Any, hint: str) -> SettingsError:
    shown = repr(value)
    return SettingsError(f"{field.name} cannot be {shown[:80]}{'…' if len(shown) > 80 else ''}", hint=hint)


_READERS = {
    "choice": _choice,
    "number": _number,
    "whole": _whole,
    "flag": _flag,
    "text": _text,
    "lines": _lines,
    "base": _text,
    "lora": _text,
    "output": _text,
    "loras": _loras,
    "shelf": _shelf,
}
