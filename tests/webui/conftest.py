"""The page's tests: a host of two folders with the example family."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def folders(family_files, tmp_path) -> tuple[Path, Path]:
    """Bases a, b and s, and a folder of LoRAs of its own, which a test may fill."""
    bases, loras = tmp_path / "bases", tmp_path / "loras"
    bases.mkdir()
    (loras / "styles").mkdir(parents=True)
    for name in "abs":
        (bases / f"base_{name}.safetensors").hardlink_to(family_files[f"family_{name}"])
    shutil.copy(family_files["family_frame_a"], loras / "frame.safetensors")
    shutil.copy(family_files["family_slant_a"], loras / "styles" / "slant.safetensors")
    return bases, loras


@pytest.fixture
def host(folders, monkeypatch, tmp_path):
    """The page's host; subspaces are cached for the test alone."""
    from lora_graft.webui.alone import Alone

    monkeypatch.setenv("LORA_GRAFT_CACHE", str(tmp_path / "cache"))
    bases, loras = folders
    return Alone([bases], [loras])


@pytest.fixture
def desk(host):
    from lora_graft.webui.desk import Desk

    return Desk(host)
