"""The merging nodes work where the host computes. A process of its own, with a host of two names."""

import subprocess
import sys

CODE = """
import sys
from types import ModuleType, SimpleNamespace
import torch

mm = ModuleType("comfy.model_management")
mm.get_torch_device = lambda: torch.device("cuda:3")
comfy, api, latest = ModuleType("comfy"), ModuleType("comfy_api"), ModuleType("comfy_api.latest")
comfy.model_management = mm
kind = type("Kind", (type,), {"__getattr__": lambda cls, name: cls, "__call__": lambda cls, *a, **k: cls})
anything = type.__call__(kind, "Anything", (), {})
latest.io = latest.ui = latest.ComfyExtension = anything
sys.modules |= {"comfy": comfy, "comfy.model_management": mm, "comfy_api": api, "comfy_api.latest": latest}

from lora_graft.jobs.merge import merge as job
from lora_graft.nodes import merging

seen = []
job.merge = lambda given, settings, **more: seen.append(more["device"])
merging.gather, merging.finish = (lambda *a: []), (lambda *a: None)
merging.run(None, {}, "1", None, None, None, rank="max", fixed_rank=8)
assert seen == [torch.device("cuda:3")], seen
"""


def test_the_hosts_device_arrives_at_the_merge():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
