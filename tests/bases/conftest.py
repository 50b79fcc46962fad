"""What ComfyUI itself calls the modules of each model, asked once per test run."""

import json
import os
import subprocess
from pathlib import Path

import pytest


def _python(root: Path) -> Path | None:
    places = (root / ".venv/bin/python", root / "venv/bin/python", root / ".venv/Scripts/python.exe")
    return next((place for place in places if place.exists()), None)


def _asked(script: str) -> dict:
    root = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy/ComfyUI")
    python = _python(root)
    if python is None:
        pytest.skip(f"no ComfyUI with its python at {root} (set COMFYUI_PATH)")
    command = [python, Path(__file__).with_name(script), root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def host_maps() -> dict:
    """{family: {"weights": {name: shape}, "aliases": {key: [name, [dim, start, length] | None, function | None]}}}"""
    return _asked("host_maps.py")


@pytest.fixture(scope="session")
def host_families() -> dict:
    """Class of ``supported_models.models`` -> the same of its network, or {"error": why it was not built}."""
    return _asked("host_families.py")
