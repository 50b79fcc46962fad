"""pytest must not import this folder as a package: its name may hold a hyphen, as a clone's usually does."""

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The root as a plain folder, in spite of its ``__init__.py``; everything below as pytest has it."""
    return pytest.Dir.from_parent(parent, path=path) if path == HERE else None
