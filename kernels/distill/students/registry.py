"""The list of student kinds. The nodes' menus and the command line's choices come from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from .model import Student, check


class Kind(NamedTuple):
    """One way to parameterise the change of a weight.

    name: what the user types; display: what menus show; paper: where it comes from;
    create: as :meth:`.model.Student.create`, arguments checked; needs_base: whether it wants the base weight.
    """

    name: str
    display: str
    paper: str
    create: Callable[..., Student]
    needs_base: bool


STUDENTS: dict[str, Kind] = {}


def student(*, name: str, display: str, paper: str) -> Callable[[type[Student]], type[Student]]:
    """Register a :class:`.model.Student` as a kind."""

    def register(cls: type[Student]) -> type[Student]:
        @wraps(cls.create)
        def create(weight_shape, rank, alpha, generator, *, weight=None, warm_start=None, **placing):
            check(name, cls.needs_base, weight_shape, rank, alpha, weight, warm_start)
            return cls.create(
                tuple(weight_shape), rank, alpha, generator, weight=weight, warm_start=warm_start, **placing
            )

        STUDENTS[name] = Kind(name, display, paper, create, cls.needs_base)
        return cls

    return register
