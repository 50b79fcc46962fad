"""The files that nodes leave behind, brought here or noted where they lie."""

from __future__ import annotations

import re
from pathlib import Path

from ..io.atomic import whole
from .jobs import Job
from .server import Server


def listed(outputs: dict[str, dict]) -> list[tuple[str, dict]]:
    """(node id, {"filename", "subfolder", "type"}) of the files in a prompt's ui outputs, whatever made them."""
    found = []
    for node, shown in outputs.items():
        for entries in shown.values() if isinstance(shown, dict) else ():
            for entry in entries if isinstance(entries, (list, tuple)) else ():
                if isinstance(entry, dict) and entry.get("filename") and (node, entry) not in found:
                    found.append((node, entry))
    return found


def texts(outputs: dict[str, dict]) -> dict[str, str]:
    """Node id → the text it showed."""
    found = {node: shown.get("text") for node, shown in outputs.items() if isinstance(shown, dict)}
    return {n: "\n".join(map(str, t)) if isinstance(t, (list, tuple)) else str(t) for n, t in found.items() if t}


async def bring(server: Server, job: Job, outputs: dict[str, dict], folder: Path) -> list[str]:
    """Write a prompt's files and texts below a folder; names relative to it. A file appears whole or not at all.

    Raises:
        Refused: the server has lost a file; Unreachable: it went away; OSError: the disk's fault.
    """
    names = []
    for number, (node, output) in enumerate(listed(outputs), 1):
        name = _name(job, node, f"_{number}{Path(output['filename']).suffix}")
        with whole(folder / name) as file:
            async for piece in server.file(output):
                file.write(piece)
        names.append(name)
    for node, text in texts(outputs).items():
        name = _name(job, node, ".txt")
        (folder / name).write_text(text + "\n", "utf-8")
        names.append(name)
    return names


def _name(job: Job, node: str, end: str) -> str:
    return job.stem + "_" + re.sub(r"[^\w.-]+", "-", node) + end
