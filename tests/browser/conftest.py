"""One ComfyUI and one Chromium for all browser tests; without them the tests skip and say why."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def missing() -> str | None:
    """Why there is no browser to test in."""
    from editor import NAMES, find_chromium

    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    if find_chromium() is None:
        named = os.environ.get("CHROMIUM", "not set")
        return f"no browser: CHROMIUM is {named}; on the PATH is none of {', '.join(NAMES)}"
    return None


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs Chromium and playwright")


def pytest_collection_modifyitems(config, items):
    asked = [item for item in items if item.get_closest_marker("browser")]
    reason = missing() if asked else None
    if reason:
        for item in asked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def family_host(tmp_path_factory):
    """A running host with the example family's models, one for all files: its start is what takes long."""
    from family_host import running

    with running(tmp_path_factory.mktemp("browser")) as host:
        yield host


@pytest.fixture(scope="module")
def editor(family_host):
    """The editor, not opened yet. Its driver keeps an event loop running, so it must end before other tests begin."""
    from editor import browser

    with browser(f"http://127.0.0.1:{family_host.port}") as editor:
        yield editor


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes 2"])
def opened(editor, request):
    """The editor with an empty workflow, in both of its modes."""
    editor.open()
    editor.nodes_2(request.param)
    yield editor
    editor.nodes_2(False)
