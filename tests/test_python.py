"""The pack from Python: cheap to import, complete when asked, and the scripts of docs/python run."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import lora_graft
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parent.parent / "docs" / "python"
JOBS = {
    "read",
    "write",
    "inspect",
    "open_base",
    "similarity",
    "transfer",
    "transfer_many",
    "merge",
    "resize",
    "convert",
    "distill",
    "prompts",
}


def test_importing_costs_no_torch():
    code = """
import sys, lora_graft
assert not hasattr(lora_graft, "NODE_CLASS_MAPPINGS") and not hasattr(lora_graft, "NODES_LIST")
assert set(lora_graft.__all__) <= set(dir(lora_graft))
assert "torch" not in sys.modules and "numpy" not in sys.modules
lora_graft.merge
assert "torch" in sys.modules and "lora_graft.nodes" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there():
    from lora_graft import face

    assert set(face.__all__) == JOBS and set(lora_graft.__all__) >= JOBS
    for name in lora_graft.__all__:
        assert getattr(lora_graft, name) is not None and name in dir(lora_graft)
    assert all(getattr(lora_graft, name).__doc__ for name in JOBS)
    with pytest.raises(AttributeError, match="no attribute 'NODE_CLASS_MAPPINGS'"):
        lora_graft.NODE_CLASS_MAPPINGS  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("python")


@pytest.mark.parametrize("script", sorted(p.stem for p in SCRIPTS.glob("*.py") if p.stem != "example_files"))
def test_scripts_run(script, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "example_files", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out.strip()
