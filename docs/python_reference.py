"""Signatures and docstrings of the package's functions and classes as Markdown, read off the modules themselves."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Collection, Iterator
from types import ModuleType

PACKAGE = "lora_graft"
LONGEST = 100  # characters of a signature on one line


def described(name: str, level: int = 3) -> str:
    """What a name of the package, without ``lora_graft.``, stands for.

    ``face`` a module's offer, ``jobs.merge.merge.MergeSettings`` one class or function, ``kernels.*`` the modules in
    a package.
    """
    if name.endswith(".*"):
        return "\n\n".join(_module(module, level) for module in modules(name[:-2]))
    try:
        module = importlib.import_module(f"{PACKAGE}.{name}")
    except ModuleNotFoundError:
        above, what = name.rsplit(".", 1)
        return _entry(what, getattr(importlib.import_module(f"{PACKAGE}.{above}"), what), level)
    return "\n\n".join(_entry(what, thing, level) for what, thing in public(module))


def modules(name: str) -> Iterator[ModuleType]:
    """The modules in a package, in the order of their names; packages in it are left out."""
    package = importlib.import_module(f"{PACKAGE}.{name}")
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not found.ispkg:
            yield importlib.import_module(found.name)


def public(module: ModuleType) -> list[tuple[str, object]]:
    """The functions and classes that a module offers in ``__all__``, or else defines without an underscore."""
    offered = getattr(module, "__all__", None)
    things = [(name, getattr(module, name)) for name in offered or vars(module) if not name.startswith("_")]
    return [
        (name, thing)
        for name, thing in things
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and (offered or thing.__module__ == module.__name__)
    ]


def _module(module: ModuleType, level: int) -> str:
    title = f"{'#' * level} {module.__name__.removeprefix(f'{PACKAGE}.')}"
    entries = [_entry(name, thing, level + 1) for name, thing in public(module)]
    return "\n\n".join([title, text(module.__doc__), *entries])


def _entry(name: str, thing, level: int) -> str:
    """A heading, the signature and the docstring; of a class its public methods too."""
    parts = [
        f"{'#' * level} {name}",
        signature(name, thing),
        _method(thing),
        text(inspect.getdoc(thing), _names(thing)),
    ]
    if inspect.isclass(thing):
        for method, given in vars(thing).items():
            function = getattr(given, "__func__", given)
            if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                parts += [
                    signature(f"{name}.{method}", getattr(thing, method)),
                    text(function.__doc__, _names(function)),
                ]
    return "\n\n".join(part for part in parts if part)


def _method(thing) -> str:
    """What the registries of methods say of a function."""
    from lora_graft.kernels import merge, transfer

    found = [m for m in (*merge.METHODS.values(), *transfer.METHODS.values()) if m.run is thing]
    return "".join(f"The method `{m.name}`: {_plain(m.display)}, {_plain(m.paper)}." for m in found)


def signature(name: str, thing) -> str:
    """``name(parameters) -> result`` as a block of Python; a parameter a line where one line would be long."""
    found = inspect.signature(thing)
    shown, star = [], False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
        star = star or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        if parameter.name not in ("self", "cls"):
            shown.append(_parameter(parameter))
    result = "" if inspect.isclass(thing) or not found.return_annotation else _type(found.return_annotation)
    tail = f" -> {result}" if result else ""
    line = f"{name}({', '.join(shown)}){tail}"
    if len(line) > LONGEST:
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){tail}"
    return f"```python\n{line}\n```"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind, default = _type(parameter.annotation), parameter.default
    text = f"{stars}{parameter.name}" + (f": {kind}" if kind else "")
    if default is parameter.empty:
        return text
    value = "…" if repr(default).startswith("<") else repr(default)
    return f"{text} = {value}" if kind else f"{text}={value}"


def _type(annotation) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    name = getattr(annotation, "__forward_arg__", annotation)
    return name if isinstance(name, str) else inspect.formatannotation(name)


def _names(thing) -> list[str]:
    try:
        return [*inspect.signature(thing).parameters, *getattr(thing, "__annotations__", {})]
    except ValueError:
        return []


def text(doc: str | None, names: Collection[str] = ()) -> str:
    """A docstring as Markdown: roles and double ticks become ticks, what is said of each of `names` a list."""
    lines = re.sub(r":\w+:`~?\.*([^`]+)`", r"`\1`", inspect.cleandoc(doc or "")).replace("``", "`").split("\n")
    shown, section, block = [], False, False
    for line in lines:
        block = line.startswith("    ") and (block or not section and shown[-1:] == [""]) or block and not line
        heading = re.fullmatch(r"(Args|Raises|Returns|Yields):", line)
        item = re.match(r"(\s*)([A-Za-z_][\w, ().*]*?):\s+(\S.*)", line)
        if block:
            shown.append(line)
        elif heading:
            shown += ["", f"**{heading[1]}**", ""]
            section = True
        elif item and (len(item[1]) == 4 if section else set(re.findall(r"\w+", item[2])) <= {*names, "and"}):
            if not section and not (shown and shown[-1].startswith(("- ", "  "))):
                shown.append("")
            shown.append(f"- **{_plain(item[2])}**: {_plain(item[3])}")
        else:
            section = section and (not line or line.startswith(" "))
            inside = line.startswith(" ") and shown and shown[-1].startswith(("- ", "  "))
            shown.append(("  " if inside else "") + _plain(line.strip()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(shown)).replace("::\n", ":\n").strip()


def _plain(line: str) -> str:
    """What HTML or Markdown would take for its own, outside of ticks."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(p if p.startswith("`") else p.replace("*", "\\*").replace("<", "&lt;") for p in parts)
