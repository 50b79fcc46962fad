"""Prompts that are new and like the task's: generated, told apart, filtered, until there are enough."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Collected:
    """prompts: accepted. words: where they came from. wanted: how many were asked for.

    generated: of which so many were repeated, unusable or rejected. tokens: read and written. scores: of the
    discriminator, by name.
    """

    prompts: list[str]
    words: str
    wanted: int
    generated: int = 0
    duplicates: int = 0
    unusable: int = 0
    rejected: int = 0
    tokens: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collected(*args):
    raise NotImplementedError
