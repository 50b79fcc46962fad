"""A ComfyUI with this pack and the example family's models, for the browser."""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from lora_graft.family.materialize import example_pictures, materialize

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS / "host"))


def find_host():
    """tests/conftest.py's: the host's folder and interpreter, or the reason why there is none."""
    return runpy.run_path(str(TESTS / "conftest.py"))["find_host"]()


@contextlib.contextmanager
def running(base: Path, *, pack: Path = TESTS.parent) -> Iterator:
    """A started :class:`server.Host` in the folder ``base``.

    Raises:
        FileNotFoundError: no ComfyUI.
    """
    from server import PACK_NAME, Host

    found = find_host()
    if isinstance(found, str):
        raise FileNotFoundError(found)
    host = Host(*found, base, {PACK_NAME: pack})
    try:
        host.start()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
        try:
            materialize(host.models)
        finally:
            torch.set_num_threads(threads)
        example_pictures(base / "input")
        host.wait()
        yield host
    finally:
        host.stop()
