"""Files for the user: whole or absent, with the permissions that the umask gives."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_graft import adapters, plots
from lora_graft.batch.manifest import Manifest
from lora_graft.io.atomic import beside, whole
from lora_graft.io.outputs import staged
from lora_graft.jobs.cache import SubspaceCache
from lora_graft.jobs.distill import dataset as datasets
from lora_graft.kernels.spectral import subspace

PACK = Path(__file__).resolve().parent.parent


def picture(path):
    plots.save(np.zeros((4, 4, 3), np.uint8), path)


def report(path):
    with staged({path: b"text"}):
        pass


def adapter(path):
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    state = {f"{key}.lora_up.weight": torch.zeros(8, 2), f"{key}.lora_down.weight": torch.zeros(2, 8)}
    adapters.write(adapters.from_state_dict(state), path, overwrite=True)


def dataset(path):
    zeros = torch.zeros(1, 4, 2, 2)
    datasets.save(datasets.Dataset(["x"], zeros, zeros, None, torch.ones(1), torch.ones(1).bool()), path)


def manifest(path):
    with Manifest(path) as book:
        book.write("batch")


def cached(path):
    SubspaceCache(path.parent).put("0" * 64, subspace(torch.eye(4), 2))
    next(path.parent.glob("0*.safetensors")).rename(path)


def plain(path):
    with whole(path) as file:
        file.write(b"x")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are a POSIX thing")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("write", [picture, report, adapter, dataset, manifest, cached, plain])
def test_the_umask_decides(write, umask, mode, tmp_path):
    path = tmp_path / "file.safetensors"
    before = os.umask(umask)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), whole(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError), whole(tmp_path / "no" / "a"):
        pass
    assert beside(path) != beside(path) and len(beside(tmp_path / ("x" * 250)).name) < 250


def test_nothing_is_made_for_the_owner_alone():
    """tempfile's files are 0600 whatever the umask; folders that go again at the end may be."""
    for path in PACK.rglob("*.py"):
        if not {".venv", "tests", "out", "build"} & set(path.relative_to(PACK).parts):
            assert not re.search(r"mkstemp|NamedTemporaryFile", path.read_text(encoding="utf-8")), path
