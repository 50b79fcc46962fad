"""ComfyUI's loader gives every written slice and fused weight the update that the original has, in the same rows.

The files: one adapter in each layout, and what merging, resizing and transferring makes of it.
"""

import json
import subprocess

import pytest
import torch
from lora_graft import adapters
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.names import DENOISER, names_for
from safetensors.torch import load_file

pytestmark = pytest.mark.host

_JUDGE = """
import json, sys
root, keys, name, shape, *files = sys.argv[1:]
sys.path.insert(0, root)
sys.argv = sys.argv[:1]
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.lora, comfy.lora_convert, torch
from safetensors.torch import load_file, save_file
to = {k: v[0] if v[1] is None else (v[0], tuple(v[1])) for k, v in json.loads(keys).items()}
for file in files:
    weight = torch.zeros(json.loads(shape))
    for key, patch in comfy.lora.load_lora(comfy.lora_convert.convert_lora(load_file(file)), to).items():
        offset = None if isinstance(key, str) else key[1]
        weight = comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, None)], weight, name)
    save_file({name: weight}, file + ".out")
"""
SLICES = [
    (
        "Flux",
        "single_blocks.37.linear1",
        ("single_transformer_blocks.37.attn.to_q", "single_transformer_blocks.37.attn.to_k"),
    ),
    ("Flux", "double_blocks.0.img_attn.qkv", ("transformer_blocks.0.attn.to_k",)),
    (
        "SD3",
        "joint_blocks.0.context_block.attn.qkv",
        ("transformer_blocks.0.attn.add_q_proj", "transformer_blocks.0.attn.add_v_proj"),
    ),
    ("Z-Image", "layers.0.attention.qkv", ("layers.0.attention.to_v",)),
]


class Base:
    """The host's model with random weights."""

    fingerprint = ""

    def __init__(self, family, shapes):
        self.shapes, self.names, self.label, self.architecture = shapes, names_for(shapes), family, family

    def weights(self):
        return self.shapes

    def storage(self, name):
        return "fp32"

    def digest(self, name):
        return f"{id(self)}{name}"

    def load(self, name, rows=None):
        whole = torch.randn(self.shapes[name], generator=torch.Generator().manual_seed(len(name)))
        return whole if rows is None else whole[rows[0] : sum(rows)]


def made(base, weight, slices):
    """(adapter of these slices with mixed ranks and one alpha, float64 ΔW of the whole weight)."""
    shape, tensors = base.shapes[weight], {}
    expected = torch.zeros(shape, dtype=torch.float64)
    for number, part in enumerate(slices):
        weight_slice, rank = base.names.resolve("transformer." + part), 2 + number
        assert weight_slice.name == weight
        start, length = weight_slice.rows
        up, down = torch.randn(length, rank), torch.randn(rank, shape[1])
        tensors |= {
            f"transformer.{part}.lora_B.weight": up,
            f"transformer.{part}.lora_A.weight": down,
            f"transformer.{part}.alpha": torch.tensor(3.0),
        }
        expected[start : start + length] = 3 / rank * up.double() @ down.double()
    return adapters.from_state_dict(tensors), expected


@pytest.mark.parametrize("family, weight, slices", SLICES, ids=[f"{f} {w}" for f, w, _ in SLICES])
def test_the_hosts_update(host_maps, request, tmp_path, family, weight, slices):
    root, python = next(p.find_host for p in request.config.pluginmanager.get_plugins() if hasattr(p, "find_host"))()
    base = Base(family, {n: tuple(s) for n, s in host_maps[family]["weights"].items()})
    name = f"{DENOISER}{weight}.weight"
    adapter, expected = made(base, name, slices)
    keys = {k: (n, offset) for k, (n, offset, _) in host_maps[family]["aliases"].items() if n == name}
    peft = ("peft",) if family == "SD3" else ()  # the host reads PEFT's own keys for this family alone
    assert bool(peft) == any(key.startswith("base_model.") for key in keys)

    wanted = {layout: (adapter, layout) for layout in ("same", "kohya", "comfy", "diffusers", *peft)}
    kohya = adapters.from_state_dict(dict(adapters.to_state_dict(adapter, layout="kohya", names=base.names)))
    other = Base(family, base.shapes)
    half = MergeSettings(method="concat", dtype="fp32")
    for start, one in (("slices", adapter), ("whole", kohya)):
        wanted |= {
            f"{start} merged": (merge([(one, 0.5, 0.5), (adapter, 0.5, 0.5)], half, base=base).adapter, "same"),
            f"{start} resized": (resize(one, ResizeSettings("rank", 12, dtype="fp32"), base=base).adapter, "same"),
            f"{start} moved": (transfer(one, base, other, TransferSettings(method="copy")).adapter, "same"),
        }
    files = {
        step: adapters.write(one, tmp_path / f"{step}.safetensors", layout=layout, names=base.names)
        for step, (one, layout) in wanted.items()
    }
    command = [str(python), "-c", _JUDGE, str(root), json.dumps(keys), name, json.dumps(base.shapes[name])]
    done = subprocess.run([*command, *files.values()], capture_output=True, text=True, timeout=600, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    for step, file in files.items():
        found = load_file(f"{file}.out")[name].double()
        assert float((found - expected).norm() / expected.norm()) < 2e-6, step
