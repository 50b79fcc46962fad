"""Writes the English locale from the nodes and tells what the other languages lack.

    python tests/host/translations.py            # starts a ComfyUI for the purpose
    python tests/host/translations.py http://127.0.0.1:8188

What a node says of itself in ``define_schema`` is the only English source; ``locales/en/nodeDefs.json`` is made of it.
Other languages are written by hand: entries that are missing are printed, ready to be translated and pasted into
``locales/<language>/nodeDefs.json``, and so are the names of entries that nothing has any more.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

LOCALES = Path(__file__).resolve().parents[2] / "locales"
ENGLISH = "en"
PREFIX = "LoraGraft_"


def english(object_info: dict) -> dict:
    """The ``nodeDefs`` of our nodes as ComfyUI's locales have them, from its ``/object_info``."""
    return {name: _node(node) for name, node in sorted(object_info.items()) if name.startswith(PREFIX)}


def _node(node: dict) -> dict:
    inputs = {
        key: {"name": key, "tooltip": spec[1].get("tooltip", "")}
        for kind in ("required", "optional")
        for key, spec in node["input"].get(kind, {}).items()
    }
    outputs = {
        str(number): {"name": name, "tooltip": tip or ""}
        for number, (name, tip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    }
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def leaves(tree: dict | str, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, text) of every text in a tree of dictionaries."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from leaves(branch, (*path, key))
    else:
        yield path, tree


def missing(wanted: dict, have: dict) -> dict:
    """The part of ``wanted`` that ``have`` has no text for."""
    given, out = dict(leaves(have)), {}
    for path, text in leaves(wanted):
        if not given.get(path):
            branch = out
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = text
    return out


def stale(wanted: dict, have: dict) -> list[str]:
    """Entries of ``have`` that name nothing in ``wanted``."""
    known = dict(leaves(wanted))
    return [".".join(path) for path, _ in leaves(have) if path not in known]


def stored(language: str, name: str = "nodeDefs") -> dict:
    path = LOCALES / language / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def as_text(tree: dict) -> str:
    return json.dumps(tree, ensure_ascii=False, indent=2) + "\n"


def _of_a_host_of_our_own() -> bytes:
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    from conftest import find_host
    from server import PACK_NAME, Host

    found = find_host()
    if isinstance(found, str):
        sys.exit(found)
    with tempfile.TemporaryDirectory() as base:
        host = Host(*found, Path(base), {PACK_NAME: LOCALES.parent})
        try:
            host.start()
            host.wait()
            return host.get("/object_info")
        finally:
            host.stop()


def main() -> None:
    if len(sys.argv) > 1:
        with urllib.request.urlopen(f"{sys.argv[1].rstrip('/')}/object_info") as answer:
            body = answer.read()
    else:
        body = _of_a_host_of_our_own()
    wanted = english(json.loads(body))
    target = LOCALES / ENGLISH / "nodeDefs.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(as_text(wanted), encoding="utf-8")
    print(f"Wrote {target}: {len(wanted)} nodes, {len(dict(leaves(wanted)))} texts")
    for language in sorted(folder.name for folder in LOCALES.iterdir() if folder.is_dir()):
        lacking, left = missing(wanted, stored(language)), stale(wanted, stored(language))
        if lacking:
            print(f"\nlocales/{language}/nodeDefs.json lacks:\n{as_text(lacking)}")
        if left:
            print(f"\nlocales/{language}/nodeDefs.json has what nothing uses: {', '.join(left)}")


if __name__ == "__main__":
    main()
