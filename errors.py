"""Errors a user can act on: what was wrong, where, and what to do."""

from __future__ import annotations


class GraftError(ValueError):
    """Base of every error this project raises on purpose.

    Args:
        what: one sentence saying what is wrong.
        file: path of the file concerned, if any.
        key: module or tensor name inside the file, if any.
        hint: what the user can do about it.
    """

    def __init__(self, what: str, *, file: object = None, key: str | None = None, hint: str | None = None):
        self.what, self.file, self.key, self.hint = what, file, key, hint
        where = ", ".join(part for part in (f"file {file}" if file else "", f"key {key}" if key else "") if part)
        super().__init__(what + (f" ({where})" if where else "") + (f"\n{hint}" if hint else ""))


class AdapterError(GraftError):
    """The adapter file cannot be read, understood or written."""


class BaseModelError(GraftError):
    """The base model cannot be read or is not what the adapter needs."""


class SettingsError(GraftError):
    """The settings contradict each other or the data."""
