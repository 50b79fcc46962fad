"""Nodes without a host, in processes of their own: where merging works, what Match Strength writes down."""

import subprocess
import sys

HOST = """
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
"""
DEVICE = """
from lora_graft.jobs.merge import merge as job
from lora_graft.nodes import merging

seen = []
job.merge = lambda given, settings, **more: seen.append(more["device"])
merging.gather, merging.finish = (lambda *a: []), (lambda *a: None)
merging.run(None, {}, "1", None, None, None, rank="max", fixed_rank=8)
assert seen == [torch.device("cuda:3")], seen
"""
STRENGTH = """
from lora_graft import adapters
from lora_graft.adapters.metadata import history
from lora_graft.jobs.distill.strength import Strength
from lora_graft.nodes import match_strength as node

key = "lora_unet_down_blocks_0_attentions_0_proj_in"
state = adapters.LoraState({f"{key}.lora_up.weight": torch.ones(6, 2), f"{key}.lora_down.weight": torch.ones(2, 5)})
node.io = SimpleNamespace(NodeOutput=lambda *values, **more: values)
node.host = SimpleNamespace(HostBase=lambda *models: None)
node.matched = lambda *given: Strength(1.5, 0.25, 0.5, [(1.0, 0.5), (1.5, 0.25)], 8, "a", "b")
drawing = (64, 64, 4, 1.0, "euler", "simple", "", 4)
lora, strength, *_ = node.MatchStrength.execute.__func__(None, state, None, None, state, None, None, "", *drawing, 0)
(step,) = history(lora.metadata)
assert step["job"] == "match_strength" and step["strength"] == strength == 1.5, step
assert step["adapter_sha256"] == adapters.from_state_dict(state).digest and lora.digest == ""
assert torch.equal(lora[f"{key}.lora_up.weight"], torch.full((6, 2), 1.5))
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", HOST + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_hosts_device_arrives_at_the_merge():
    run(DEVICE)


def test_a_matched_strength_is_a_step_of_the_files_history():
    run(STRENGTH)
