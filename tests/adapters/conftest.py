"""Shared by the adapter tests: the samples, and what the real ComfyUI makes of them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from adapter_samples import SAMPLES, judged_by_host

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def comfy(request):
    """(folder, interpreter) of the real ComfyUI."""
    plugins = request.config.pluginmanager.get_plugins()
    found = next(p.find_host for p in plugins if hasattr(p, "find_host"))()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def host_deltas(comfy, tmp_path_factory):
    """Key -> change, for every sample ComfyUI can judge; one start of its interpreter for all."""
    weights = {name: sample.weight() for name, sample in SAMPLES.items() if sample.host}
    tensors = {name + s: t for name in weights for s, t in SAMPLES[name].tensors().items()}
    return judged_by_host(comfy, tmp_path_factory.mktemp("host"), weights, tensors)
