"""Checks of numbers and words that someone chose."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SettingsError


def share(name: str, value: float) -> None:
    """Raises SettingsError for a share outside (0, 1]; NaN is outside."""
    if not 0 < value <= 1:
        raise SettingsError(f"{name} must lie in (0, 1], got {value}")


def at_least_one(name: str, value: float) -> None:
    """Raises SettingsError for a number below 1."""
    if value < 1:
        raise SettingsError(f"{name} must be at least 1, got {value}")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises SettingsError for a word that is not among the choices."""
    if value not in choices:
        raise SettingsError(f"unknown {name} {value!r}", hint=f"Choose one of {', '.join(choices)}.")
