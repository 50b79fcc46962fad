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

    def at(self, *, file: object = None, key: str | None = None, hint: str | None = None) -> GraftError:
        """The same error with what the caller knows of where it happened; fields not given stay as they are."""
        hint = self.hint if hint is None else hint
        return type(self)(self.what, file=file or self.file, key=key or self.key, hint=hint)


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

    def at(self, *, file: object = None, key: str | None = None, hint: str | None = None) -> WrongBaseError:
        """As :meth:`GraftError.at`; a hint given is other advice."""
        advice = self.advice if hint is None else hint
        file, key = file or self.file, key or self.key
        return WrongBaseError(self.what, looks_like=self.looks_like, advice=advice, file=file, key=key)


class BaseModelError(GraftError):
    """The base model cannot be read or is not what the adapter needs."""


class SettingsError(GraftError):
    """The settings contradict each other or the data."""


def in_words(error: BaseException) -> str:
    """An error as a user reads it: what was wrong, of the system's errors the file too."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" (file {error.filename})" if error.filename else "")
    if lacks_memory(error):
        return str(error) if str(error).startswith(NO_MEMORY) else NO_MEMORY
    return str(error)


NO_MEMORY = "There is not enough memory"


def lacks_memory(error: BaseException) -> bool:
    """Whether memory gave out: Python's, a device's, or PyTorch's on the CPU, which tells it in words alone."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in ("allocate memory", "out of memory"))
