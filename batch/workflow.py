"""A workflow in API form: its nodes, and how a user names one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ..errors import GraftError, SettingsError
from .catalogue import Catalogue, Spec

EXPORT = "In ComfyUI open the workflow, choose Workflow > Export (API), and give the file that is saved."


@dataclass(frozen=True)
class NodeInput:
    """One input of one node. name: as the user wrote it; spec: what it takes."""

    node: str
    input: str
    name: str
    spec: Spec


@dataclass(frozen=True)
class Workflow:
    """nodes: id → {"class_type", "inputs", "_meta"}, as ComfyUI exports it."""

    nodes: dict[str, dict]

    @property
    def classes(self) -> list[str]:
        return list(dict.fromkeys(node["class_type"] for node in self.nodes.values()))

    def title(self, node: str) -> str:
        """What the node is called on the canvas."""
        entry = self.nodes.get(node, {})
        return (entry.get("_meta") or {}).get("title") or entry.get("class_type", "")

    def filled(self, values: dict[tuple[str, str], object]) -> dict[str, dict]:
        """The nodes with values put in, by (node, input); this workflow stays as it is."""
        nodes = {name: {**node, "inputs": dict(node["inputs"])} for name, node in self.nodes.items()}
        for (node, name), value in values.items():
            nodes[node]["inputs"][name] = value
        return nodes

    def node_input(self, text: str, catalogue: Catalogue) -> NodeInput:
        """The input that ``NODE.INPUT`` means; both parts may hold dots.

        NODE is an id, a title, a display name or a class, looked up in this order. INPUT is a name, or the front of
        one: ``lora`` for ``lora_name``.

        Raises:
            SettingsError: no such node or input, several nodes of that name, or a socket that takes no value.
        """
        missing = None
        for at in [i for i, letter in enumerate(text) if letter == "."][::-1]:
            name, wanted = text[:at].strip(), text[at + 1 :].strip()
            found = self._named(name, catalogue)
            if len(found) > 1:
                raise SettingsError(
                    f"--set {text}: several nodes are called {name!r}",
                    hint="Use the id of one of them: " + self._list(found) + ".",
                )
            if found:
                node = found[0]
                kind = self.nodes[node]["class_type"]
                inputs = {**catalogue.inputs(kind)}
                for known, value in self.nodes[node]["inputs"].items():
                    if known not in inputs or (inputs[known].socket and not isinstance(value, list)):
                        inputs[known] = Spec.of_value(value)
                known = _input(wanted, inputs)
                if known is not None:
                    if inputs[known].socket:
                        raise SettingsError(
                            f"--set {text}: {known} of {self.title(node)} is a socket ({inputs[known].kind})",
                            hint="Set an input of the node that is connected to it.",
                        )
                    return NodeInput(node, known, text, inputs[known])
                missing = missing or (wanted, node, [n for n, spec in inputs.items() if not spec.socket])
        if missing:
            wanted, node, inputs = missing
            raise SettingsError(
                f"--set {text}: {self.title(node)} (node {node}) has no input {wanted!r}", hint=_near(wanted, inputs)
            )
        name = text.rpartition(".")[0] or text
        names = [n for node in self.nodes for n in (self.title(node), self.nodes[node]["class_type"])]
        if "." not in text:
            raise SettingsError(f"--set {text}: write NODE.INPUT=VALUES", hint="Nodes: " + self._list(self.nodes) + ".")
        raise SettingsError(f"--set {text}: the workflow has no node {name!r}", hint=_near(name, names))

    def _named(self, name: str, catalogue: Catalogue) -> list[str]:
        if name in self.nodes:
            return [name]
        plain = name.casefold()
        for label in (
            lambda node: self.title(node),
            lambda node: catalogue.display(self.nodes[node]["class_type"]),
            lambda node: self.nodes[node]["class_type"],
        ):
            found = [node for node in self.nodes if label(node).casefold() == plain]
            if found:
                return found
        return []

    def _list(self, nodes) -> str:
        return ", ".join(f"{node} ({self.title(node)})" for node in nodes)


def load(path: Path) -> Workflow:
    """Read a workflow file.

    Raises:
        GraftError: not JSON, not a workflow, or one in the editor's own form.
    """
    try:
        data = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise GraftError(f"the workflow is not JSON: {error}", file=path, hint=EXPORT) from error
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]:
        data = data["prompt"]  # the body of a request, as the API takes it
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        raise GraftError("this is a workflow in the editor's graph form, not in API form", file=path, hint=EXPORT)
    if not isinstance(data, dict) or not data or not all(isinstance(node, dict) for node in data.values()):
        raise GraftError("this JSON is not a workflow in API form", file=path, hint=EXPORT)
    for name, node in data.items():
        if not isinstance(node.get("class_type"), str) or not isinstance(node.get("inputs"), dict):
            raise GraftError("a node has no class or no inputs", file=path, key=name, hint=EXPORT)
    return Workflow(data)


def identity(nodes: dict[str, dict]) -> str:
    """Hash of all that decides the result: titles do not."""
    plain = {name: (node["class_type"], node["inputs"]) for name, node in nodes.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:20]


def _input(wanted: str, inputs: dict[str, Spec]) -> str | None:
    if wanted in inputs:
        return wanted
    plain = wanted.casefold().replace(" ", "_").replace("-", "_")
    for fits in (lambda n: n == plain, lambda n: n == f"{plain}_name", lambda n: n.startswith(f"{plain}_")):
        found = [name for name in inputs if fits(name.casefold()) and (name == wanted or not inputs[name].socket)]
        if len(found) == 1:
            return found[0]
    return None


def _near(wanted: str, names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    plain = {name.casefold(): name for name in names}
    close = [plain[n] for n in get_close_matches(wanted.casefold(), list(plain), 5, 0.5)]
    close += [name for name in names if wanted.casefold() in name.casefold() and name not in close]
    if close:
        return "Did you mean " + " or ".join(close[:5]) + "?"
    return "There is: " + ", ".join(names[:30]) + "."
