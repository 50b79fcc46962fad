"""The package's files import each other in one direction: no circles, not even through imports inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parent.parent
ELSEWHERE = {"tests", "benchmarks", "docs", "build", "dist", "out"}


def files(root: Path) -> dict[str, Path]:
    """Module name below the package -> file."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in ELSEWHERE and not any(part.startswith(".") for part in parts):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """Every ``from … import``, but for those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield from statements(node)


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    known = files(root)
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        package = [part for part in package if part]
        uses = found.setdefault(module, set())
        for statement in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if not statement.level:
                continue
            base = package[: len(package) - statement.level + 1] + (statement.module or "").split(".")
            base = [part for part in base if part]
            for alias in statement.names:
                whole = ".".join([*base, alias.name])
                uses.add(whole if whole in known else ".".join(base))
        uses.discard(module)
    return found


def test_no_circles():
    imports = graph(PACK)
    assert len(imports) > 150 and "kernels.lowrank" in imports["adapters.module"], "the test sees the package"
    TopologicalSorter(imports).prepare()


def test_a_circle_is_found(tmp_path):
    (tmp_path / "__init__.py").write_text("from .a import one\n")
    (tmp_path / "a.py").write_text("def one():\n    from . import b\n    return b\n")
    (tmp_path / "b.py").write_text("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .a import one\n")
    TopologicalSorter(graph(tmp_path)).prepare()
    (tmp_path / "b.py").write_text("from .a import one\n")
    with pytest.raises(CycleError, match="nodes are in a cycle"):
        TopologicalSorter(graph(tmp_path)).prepare()
