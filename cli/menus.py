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
    return tuple(name for name, _ in _methods(folder))


def readers(option: str, folder: Path = MERGE_FOLDER) -> str:
    """The methods of a folder that read an option, as text: those whose signature has it after the star."""
    return ", ".join(name for name, f in _methods(folder) if option in {a.arg for a in f.args.kwonlyargs})


def _methods(folder: Path) -> list[tuple[str, ast.FunctionDef]]:
    """Name and definition of the registered functions, as the package imports their files."""
    package = ast.parse((folder / "__init__.py").read_text("utf-8"))
    imports = [n for n in package.body if isinstance(n, ast.ImportFrom) and n.level == 1]
    found = []
    for stem in (s for n in imports for s in ([n.module] if n.module else [a.name for a in n.names])):
        functions = [
            n for n in ast.parse((folder / f"{stem}.py").read_text("utf-8")).body if isinstance(n, ast.FunctionDef)
        ]
        found += [(name, f) for f in functions for d in f.decorator_list if (name := _registered(d))]
    return found


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
