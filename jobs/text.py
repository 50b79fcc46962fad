"""How reports turn figures into Markdown and JSON."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from statistics import fmean

from ..untrusted import code, in_markdown, real_text


@dataclass
class ReportText(ABC):
    """What a report must have, and the report as plain values and as JSON."""

    @property
    @abstractmethod
    def totals(self) -> dict:
        """Figures over all that the report lists."""

    @abstractmethod
    def summary(self) -> str:
        """The outcome in words."""

    def to_dict(self) -> dict:
        """Plain values only; numbers that are not finite become None."""
        values = {**asdict(self), "totals": self.totals, "summary": self.summary()}
        return {name: plain(value) for name, value in values.items()}

    def to_json(self) -> str:
        """The report as JSON, totals and summary included."""
        return real_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))


def table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table."""
    head, *body = [" | ".join(map(_cell, line)) for line in (columns, *rows)]
    return "\n".join(f"| {line} |" for line in (head, " | ".join(["---"] * len(columns)), *body))


def _cell(text: str) -> str:
    """A cell of a table; what is between backticks stays a code span."""
    plain = code(text[1:-1]) if len(text) > 1 and text[0] == text[-1] == "`" else in_markdown(text)
    return re.sub(r"\\(?=\|)", r"\\ ", plain).replace("|", "\\|")


def joined(parts: list[str]) -> str:
    """Paragraphs apart, items of one list together."""
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        joint = "" if not before else "\n" if before.startswith("- ") and part.startswith("- ") else "\n\n"
        text += joint + part
    return text + "\n"


def cell(value: object) -> str:
    """A figure as a table shows it."""
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"
    return str(value)


def percent(value: float) -> str:
    """A share as a sentence says it."""
    return f"{100 * value:.0f} %" if value >= 0.095 or value < 1e-4 else f"{100 * value:.2g} %"


def words(name: str) -> str:
    """A field's name in words."""
    return name.replace("_", " ")


def in_ranges(blocks: Iterable[str]) -> list[str]:
    """Names with runs of numbers drawn together: "layers.4", "layers.5" are "layers.4 to 5"."""
    runs: list[tuple[str, int, int]] = []
    plain: list[str] = []
    for block in blocks:
        stem, _, number = block.rpartition(".")
        if not re.fullmatch("[0-9]{1,9}", number):
            plain.append(block)
        elif runs and runs[-1][0] == stem and runs[-1][2] + 1 == int(number):
            runs[-1] = (stem, runs[-1][1], int(number))
        else:
            runs.append((stem, int(number), int(number)))
    return plain + [f"{stem}.{a}" if a == b else f"{stem}.{a} to {b}" for stem, a, b in runs]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the known values; None when there are none."""
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def grouped(modules: list, key: Callable) -> dict[str, list]:
    """Modules by key, in the order in which the keys appear."""
    groups: dict[str, list] = {}
    for module in modules:
        groups.setdefault(key(module), []).append(module)
    return groups


def rebuilt(cls, data: dict):
    """A dataclass from a dict; fields it does not know are passed over."""
    names = {f.name for f in fields(cls)}
    return cls(**{name: value for name, value in data.items() if name in names})


def plain(value: object) -> object:
    """Values JSON can hold; numbers that are not finite become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def times(shape: tuple[int, ...]) -> str:
    """A shape in words: 3072×4."""
    return "×".join(map(str, shape))
