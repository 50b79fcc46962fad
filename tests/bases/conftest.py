"""What ComfyUI itself calls the modules of each model, asked once per test run."""

import json
import os
import subprocess
from pathlib import Path

import pytest


def _python(root: Path) -> Path | None:
    places = (root / ".venv/bin/python", root / "venv/bin/python", root / ".venv/Scripts/python.exe")
    return next((place for place in places if place.exists()), None)


@pytest.fixture(scope="session")
def host_maps() -> dict:
    """{family: {"weights": {name: shape}, "aliases": {key: [name, [dim, start, length] | None, function | None]}}}"""
    root = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy/ComfyUI")
    python = _python(root)
    if python is None:
        pytest.skip(f"no ComfyUI with its python at {root} (set COMFYUI_PATH)")
    script = Path(__file__).with_name("host_maps.py")
    done = subprocess.run([python, script, root], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
