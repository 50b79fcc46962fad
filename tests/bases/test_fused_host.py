"""ComfyUI's loader gives every written slice and fused weight the update that the original has, in the same rows."""

import json
import subprocess

import pytest
import torch
from lora_graft import adapters
from lora_graft.names import DENOISER, known_names, names_for
from safetensors.torch import load_file

pytestmark = pytest.mark.host

_JUDGE = """
import json, sys
root, keys, shapes, lora, out = sys.argv[1:]
sys.path.insert(0, root)
sys.argv = sys.argv[:1]
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.lora, comfy.lora_convert, torch
from safetensors.torch import load_file, save_file
to = {k: v[0] if v[1] is None else (v[0], tuple(v[1])) for k, v in json.loads(keys).items()}
weights = {name: torch.zeros(shape) for name, shape in json.loads(shapes).items()}
for key, patch in comfy.lora.load_lora(comfy.lora_convert.convert_lora(load_file(lora)), to).items():
    name, offset = (key, None) if isinstance(key, str) else key[:2]
    weights[name] = comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, None)], weights[name], name)
save_file(weights, out)
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


@pytest.mark.parametrize("family, weight, slices", SLICES, ids=[f"{f} {w}" for f, w, _ in SLICES])
def test_the_hosts_update(host_maps, request, tmp_path, family, weight, slices):
    root, python = next(p.find_host for p in request.config.pluginmanager.get_plugins() if hasattr(p, "find_host"))()
    name = f"{DENOISER}{weight}.weight"
    shape = tuple(host_maps[family]["weights"][name])
    names = known_names(family) or names_for({n: tuple(s) for n, s in host_maps[family]["weights"].items()})
    tensors, expected = {}, torch.zeros(shape, dtype=torch.float64)
    for number, part in enumerate(slices):
        weight_slice, rank = names.resolve("transformer." + part), 2 + number
        assert weight_slice.name == name
        start, length = weight_slice.rows
        up, down = torch.randn(length, rank), torch.randn(rank, shape[1])
        tensors |= {
            f"transformer.{part}.lora_B.weight": up,
            f"transformer.{part}.lora_A.weight": down,
            f"transformer.{part}.alpha": torch.tensor(3.0),
        }
        expected[start : start + length] = 3 / rank * up.double() @ down.double()
    adapter = adapters.from_state_dict(tensors)
    keys = {k: (n, offset) for k, (n, offset, _) in host_maps[family]["aliases"].items() if n == name}
    peft = ("peft",) if family == "SD3" else ()  # the host reads PEFT's own keys for this family alone
    assert bool(peft) == any(key.startswith("base_model.") for key in keys)
    for layout in ("same", "kohya", "comfy", "diffusers", *peft):
        file = adapters.write(adapter, tmp_path / f"{layout}.safetensors", layout=layout, names=names)
        out = tmp_path / f"{layout}.out.safetensors"
        command = [str(python), "-c", _JUDGE, str(root), json.dumps(keys), json.dumps({name: shape}), file, out]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
        assert done.returncode == 0, done.stderr[-2000:]
        found = load_file(out)[name].double()
        assert float((found - expected).norm() / expected.norm()) < 1e-6, layout
