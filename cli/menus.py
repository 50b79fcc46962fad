"""Lists to choose from, known without loading torch."""

from __future__ import annotations

import ast
from enum import Enum
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
METHODS_FOLDER, MERGE_FOLDER = KERNELS / "transfer", KERNELS / "merge"


def menu(name: str, choices: tuple[str, ...]) -> type[Enum]:
    """A string enum, which typer shows as a choice."""
    return Enum(name, {choice: choice for choice in choices}, type=str)


def method_names(folder: Path = METHODS_FOLDER) -> tuple[str, ...]:
    """Names of the registered methods of a folder, read off their ``@method(name=…)`` decorators.

    Importing the registry itself would load torch, a second too much for ``--help``. Order: as the package
    imports them.
    """
    names: dict[str, list[str]] = {}
    for file in folder.glob("*.py"):
        functions = [n for n in ast.parse(file.read_text("utf-8")).body if isinstance(n, ast.FunctionDef)]
        names[file.stem] = [name for f in functions for d in f.decorator_list if (name := _registered(d))]
    package = ast.parse((folder / "__init__.py").read_text("utf-8"))
    order = [a.name for n in package.body if isinstance(n, ast.ImportFrom) and not n.module for a in n.names]
    return tuple(name for stem in order for name in names.get(stem, []))


def constant(file: Path, name: str) -> tuple[str, ...]:
    """A tuple of strings that a module assigns at its top level, read without importing it."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise LookupError(f"{file} assigns no {name}")


def _registered(decorator: ast.expr) -> str | None:
    if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "method":
        for keyword in decorator.keywords:
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                return keyword.value.value
    return None
