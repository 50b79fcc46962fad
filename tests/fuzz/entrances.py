"""Every door through which a stranger's bytes come in: name -> function(Random, Sandbox) -> outcome."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from promise import Sandbox

Entrance = Callable[[Random, Sandbox], str]
ENTRANCES: dict[str, Entrance] = {}


def entrance(name: str) -> Callable[[Entrance], Entrance]:
    """Registers a function as the door of this name."""

    def add(function: Entrance) -> Entrance:
        ENTRANCES[name] = function
        return function

    return add


import through_files  # noqa: E402, F401, registers its own
import through_jobs  # noqa: E402, F401
import through_models  # noqa: E402, F401
import through_servers  # noqa: E402, F401
import through_text  # noqa: E402, F401
