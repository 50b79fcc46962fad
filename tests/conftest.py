"""Where the real ComfyUI is, the last line of a run that did without it, and a clone that may have any name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parent.parent
SKIPPED = pytest.StashKey[str]()


def find_host() -> tuple[Path, Path] | str:
    """The host's folder and its interpreter, or the reason why there is none.

    Folder: COMFYUI_PATH, else the ComfyUI whose custom_nodes holds this pack, else ~/comfy/ComfyUI.
    Interpreter: COMFYUI_PYTHON, else the host's own .venv or venv.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser()
    elif PACK.parent.name == "custom_nodes" and (PACK.parent.parent / "main.py").is_file():
        folder = PACK.parent.parent
    else:
        folder = Path("~/comfy/ComfyUI").expanduser()
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        return f"no ComfyUI at {folder}; set COMFYUI_PATH to run the host tests"
    named = os.environ.get("COMFYUI_PYTHON")
    inside = [folder / venv / bin for venv in (".venv", "venv") for bin in ("bin/python", "Scripts/python.exe")]
    for python in [Path(named).expanduser()] if named else inside:
        if python.is_file():
            return folder, python
    return f"no Python for the ComfyUI at {folder}; set COMFYUI_PYTHON to run the host tests"


def pytest_configure(config):
    config.addinivalue_line("markers", "host: needs a real ComfyUI, which the tests start themselves")
    config.pluginmanager.register(PlainRoot())  # a conftest's own hook is not asked about the folders above it


class PlainRoot:
    """Keeps pytest from importing the clone as a package: its name may hold a hyphen, as a clone's usually does."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == PACK else None


def pytest_collection_modifyitems(config, items):
    asked = [item for item in items if item.get_closest_marker("host")]
    found = find_host() if asked else None
    if isinstance(found, str):
        config.stash[SKIPPED] = f"{len(asked)} host tests skipped: {found}"
        for item in asked:
            item.add_marker(pytest.mark.skip(reason=found))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    reason = config.stash.get(SKIPPED, None)
    if reason and not hasattr(config, "workerinput"):
        print(reason)
