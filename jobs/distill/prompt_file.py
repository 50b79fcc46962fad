"""Prompts in a text file of the user, one a line."""

from __future__ import annotations

from pathlib import Path

from ...errors import SettingsError


def read_lines(file: Path, what: str = "prompts") -> list[str]:
    """The lines that are not empty.

    Raises:
        SettingsError: there is none, or the file is no text.
        OSError: it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SettingsError("The file is not a text in UTF-8", file=file, hint=f"Give {what}, one a line.") from problem
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SettingsError(f"The file holds no {what}", file=file, hint="Write some, one a line.")
    return lines
