"""Runs a benchmark inside ComfyUI's own Python:

    COMFYUI_PYTHON benchmarks/host.py COMFYUI_FOLDER SCRIPT.py [its options]

ComfyUI's modules come onto the path, this pack gets its package name, and the script finds both imported. Without a GPU
set LORA_GRAFT_CPU=1.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def find() -> tuple[Path, Path]:
    """ComfyUI's folder (COMFYUI_PATH, else ~/comfy/ComfyUI) and its Python (COMFYUI_PYTHON, else its own).

    Raises:
        SystemExit: there is none.
    """
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
    given = os.environ.get("COMFYUI_PYTHON")
    inside = [folder / name for name in (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe")]
    for python in [Path(given).expanduser()] if given else inside:
        if python.is_file():
            return folder, python
    raise SystemExit(f"no ComfyUI with its Python at {folder}; set COMFYUI_PATH")


def enter(folder: Path, *, cpu: bool) -> None:
    """Make ``comfy`` and ``lora_graft`` importable."""
    given, sys.argv = sys.argv, sys.argv[:1]  # the host reads them
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.cpu, sys.argv = cpu, given
    spec = importlib.util.spec_from_file_location(
        "lora_graft", HERE.parent / "__init__.py", submodule_search_locations=[str(HERE.parent)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["lora_graft"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    enter(Path(sys.argv[1]).expanduser(), cpu=bool(os.environ.get("LORA_GRAFT_CPU")))
    sys.argv = sys.argv[2:]
    runpy.run_path(str(HERE / sys.argv[0]), run_name="__main__")
