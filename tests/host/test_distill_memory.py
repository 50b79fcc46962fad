"""Learning leaves the base's weights where they are: no copy of them, in another precision or otherwise."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_real_sized_unet_learns_without_a_copy_of_its_weights(request):
    plugins = request.config.pluginmanager.get_plugins()
    folder, python = next(p for p in plugins if hasattr(p, "find_host") and hasattr(p, "PACK")).find_host()
    command = [str(python), "-s", str(ROOT / "benchmarks" / "host.py"), str(folder), "distill_memory.py"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*command, "--size", "sd15", "--batch", "8", "--steps", "1"],
        capture_output=True,
        text=True,
        timeout=900,
        env=env | {"LORA_GRAFT_CPU": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    weights = seen["numbers"] * 2 / 2**20  # fp16; a copy for computing in fp32 would take twice that
    assert seen["weights"] == 160 and seen["dtype"] == "torch.float16"
    assert seen["peak MB"] - seen["loaded MB"] < 0.6 * weights
    assert seen["losses"][0] > 0
