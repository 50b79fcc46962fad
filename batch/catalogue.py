"""What servers tell about node classes: display names, and what each input takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

WIDGETS = ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")


@dataclass(frozen=True)
class Spec:
    """What one input takes.

    kind: the host's type name ("COMBO" for a menu); options: a menu's entries; socket: only a connection fits.
    """

    kind: str
    options: tuple = ()
    socket: bool = False
    lowest: float | None = None
    highest: float | None = None

    @staticmethod
    def read(entry: object) -> Spec:
        """From ``/object_info``: ``[type, {settings}]``, where the type of an older menu is its list of options."""
        kind, *rest = entry if isinstance(entry, (list, tuple)) and entry else ("STRING",)
        settings = rest[0] if rest and isinstance(rest[0], dict) else {}
        if isinstance(kind, (list, tuple)):
            return Spec("COMBO", tuple(kind))
        kind, options = str(kind), settings.get("options") or ()
        if kind.startswith("COMFY_DYNAMICCOMBO"):
            return Spec("COMBO", tuple(option["key"] for option in options))
        if not any(part in WIDGETS for part in kind.split(",")):
            return Spec(kind, socket=True)
        return Spec(kind, tuple(options), lowest=settings.get("min"), highest=settings.get("max"))

    @staticmethod
    def of_value(value: object) -> Spec:
        """Of an input that the server does not list (dynamic ones), from the value the workflow has there."""
        if isinstance(value, list):
            return Spec("connection", socket=True)
        kinds = {bool: "BOOLEAN", int: "INT", float: "FLOAT"}
        return Spec(kinds.get(type(value), "STRING"))


class Catalogue:
    """Node classes as one or several servers know them; the options of their menus are put together."""

    def __init__(self, infos: Iterable[dict[str, dict]]):
        self._display: dict[str, str] = {}
        self._inputs: dict[str, dict[str, Spec]] = {}
        self._writes: set[str] = set()
        for info in infos:
            for kind, entry in info.items():
                self._display.setdefault(kind, entry.get("display_name") or kind)
                if entry.get("output_node"):
                    self._writes.add(kind)
                mine = self._inputs.setdefault(kind, {})
                for group in ("required", "optional"):
                    for name, definition in ((entry.get("input") or {}).get(group) or {}).items():
                        spec = Spec.read(definition)
                        before = mine.get(name, spec)
                        mine[name] = replace(spec, options=tuple(dict.fromkeys((*before.options, *spec.options))))

    def __contains__(self, kind: str) -> bool:
        return kind in self._inputs

    def display(self, kind: str) -> str:
        return self._display.get(kind, kind)

    def inputs(self, kind: str) -> dict[str, Spec]:
        return self._inputs.get(kind, {})

    def writes(self, kind: str) -> bool:
        """Whether nodes of the class end a graph: only graphs with one run at all."""
        return kind in self._writes
