"""One ComfyUI for all host tests, started while the checkpoints are made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope="session")
def host(tmp_path_factory, request):
    """A running :class:`server.Host` with tiny checkpoints in its models folder."""
    from server import PACK_NAME, Host

    folder, python = _conftest(request).find_host()
    base = tmp_path_factory.mktemp("comfyui")
    host = Host(folder, python, base, {PACK_NAME: HERE.parent.parent, "Probe": HERE / "probe"})
    made = subprocess.Popen(
        [str(python), "-s", str(HERE / "checkpoints.py"), str(folder), str(host.models)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        host.start()
        output = made.communicate(timeout=900)[0]
        assert made.returncode == 0, output.decode()[-4000:]
        host.wait()
        host.modules_at_start = _modules(host)
        yield host
    finally:
        if made.poll() is None:
            made.kill()
        host.stop()


def _conftest(request):
    """tests/conftest.py, which knows where the host is."""
    return next(p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "find_host") and hasattr(p, "PACK"))


def _modules(host) -> list[str]:
    """Names of the modules the process has imported so far."""
    from graphs import Graph

    graph = Graph()
    node = graph.add("Probe_Modules")
    return json.loads(host.run(graph).text(node))
