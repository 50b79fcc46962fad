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


class WrongBaseError(AdapterError):
    """The adapter is not for the base that was given.

    Args:
        looks_like: architecture that the adapter seems to be for.
        advice: what the user can do about it; "" when only the caller knows.
    """

    def __init__(self, what: str, *, looks_like: str, advice: str = "", file: object = None, key: str | None = None):
        hint = f"The adapter looks like one for {looks_like}."
        super().__init__(what, file=file, key=key, hint=f"{hint} {advice}" if advice else hint)
        self.looks_like, self.advice = looks_like, advice

    def advising(self, advice: str) -> WrongBaseError:
        """The same error with other advice."""
        return WrongBaseError(self.what, looks_like=self.looks_like, advice=advice, file=self.file, key=self.key)


class BaseModelError(GraftError):
    """The base model cannot be read or is not what the adapter needs."""


class SettingsError(GraftError):
    """The settings contradict each other or the data."""
