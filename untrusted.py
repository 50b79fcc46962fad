"""What strangers wrote: JSON that cannot bring its reader down, text that cannot take over a terminal or a page."""

from __future__ import annotations

import json
import math
import re
from typing import Any

DEEPEST = 100  # levels of nesting; what programs write has ten
# Strings whole (also one that never ends), so that brackets inside them do not count.
_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# C0 but tab and newline, DEL and C1, marks that turn the direction of writing, line separators, lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What Markdown would read as more than text: escapes, code, tags, the middle of links, entities, bare addresses, and
# what makes a line a heading, a list, a quote or a rule.
_MARKUP = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)|`|<(?=[a-z/!?])|\](?=[(\[:])|&(?=#?\w+;)|:(?=//)|(?<=www)\.|^[#>+=~|*_-]", re.IGNORECASE
)


def parse_json(text: str | bytes, *, strict: bool = False) -> Any:
    """The data in a JSON text; lone surrogates in its strings become U+FFFD.

    Args:
        strict: refuse NaN, Infinity and 1e999, which Python reads and JSON cannot hold: for what is written again.

    Raises:
        ValueError: no JSON, not UTF-8, nested deeper than DEEPEST, or a number of thousands of digits.
    """
    text = text.decode("utf-8") if isinstance(text, (bytes, bytearray)) else text
    if text.count("[") + text.count("{") > DEEPEST and _too_deep(text):
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    data = json.loads(text, **({"parse_constant": _finite, "parse_float": _finite} if strict else {}))
    return _whole(data) if _SURROGATE.search(text) else data


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _too_deep(text: str) -> bool:
    depth = 0
    for hit in _NESTING.finditer(text):
        first = hit[0][0]
        depth += first in "[{"
        depth -= first in "]}"
        if depth > DEEPEST:
            return True
    return False


def _whole(data: Any) -> Any:
    if isinstance(data, str):
        return real_text(data)
    if isinstance(data, dict):
        return {_whole(key): _whole(value) for key, value in data.items()}
    return [_whole(value) for value in data] if isinstance(data, list) else data


def real_text(text: str) -> str:
    """The text with lone surrogates, which no encoding can write, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def visible(text: str) -> str:
    r"""The text with every character that moves the cursor, turns the writing or cannot be printed as ``\u001b``.

    Tabs and newlines stay. JSON stays the same JSON.
    """
    return _UNSAFE.sub(lambda hit: _escape(hit[0]), text)


def one_line(text: str) -> str:
    r"""The same with newlines as ``\n``: for a name or a value within a line."""
    return visible(text).replace("\n", "\\n")


def _escape(letter: str) -> str:
    return f"\\u{ord(letter):04x}"


def in_markdown(text: str) -> str:
    """Text that a page rendered from Markdown shows as it is: no HTML, link, picture, heading or entity in it."""
    return _MARKUP.sub(lambda hit: "\\" + hit[0], one_line(text).strip())


def code(text: str) -> str:
    """The text as a code span."""
    return f"`{one_line(text).replace('`', chr(39)) or ' '}`"
