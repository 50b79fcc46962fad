"""Files: layouts, number formats, memory, hashes, and what is refused."""

import json
import os
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lora_graft.bases import open_base
from lora_graft.errors import BaseModelError
from safetensors.torch import save_file

QUERY = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def saved(path, tensors, **metadata):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata or None)
    return path


@pytest.fixture
def one(tmp_path):
    """A file with a single weight of 6 x 4, and that weight."""
    weight = torch.randn(6, 4)
    return saved(tmp_path / "one.safetensors", {"blocks.0.proj.weight": weight}), weight


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_denoiser_behind_any_prefix(tmp_path, prefix):
    weights = {QUERY: torch.randn(8, 768), "input_blocks.1.0.in_layers.2.weight": torch.randn(8, 8, 3, 3)}
    file = saved(tmp_path / "m.safetensors", {prefix + name: weight for name, weight in weights.items()})
    base = open_base(file)
    assert base.label == "m" and base.architecture == "SD 1.5"
    assert base.weights() == {"diffusion_model." + name: tuple(weight.shape) for name, weight in weights.items()}
    for name, weight in weights.items():
        assert torch.equal(base.load("diffusion_model." + name), weight)


def test_full_checkpoints_carry_their_text_encoders(tmp_path):
    unet, vae = {"model.diffusion_model." + QUERY: torch.randn(8, 768)}, {"first_stage_model.w": torch.randn(2)}
    layer = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    query, norm = torch.randn(768, 768), {"text_model.final_layer_norm.weight": torch.ones(768)}
    old = {f"cond_stage_model.transformer.{layer.removeprefix('text_model.')}": query}
    for text, name in (
        ({f"cond_stage_model.transformer.{layer}": query}, f"clip_l.transformer.{layer}"),
        (old, f"clip_l.transformer.{layer}"),
        ({f"conditioner.embedders.0.transformer.{layer}": query}, f"clip_l.transformer.{layer}"),
        ({f"text_encoders.clip_l.transformer.{layer}": query}, f"clip_l.transformer.{layer}"),
        ({layer: query} | norm, f"clip_l.transformer.{layer}"),
    ):
        alone = layer in text
        base = open_base(saved(tmp_path / "m.safetensors", text if alone else unet | vae | text))
        assert name in base.weights()
        assert torch.equal(base.load(name), query)
        assert not any("first_stage" in weight for weight in base.weights())
        assert base.names.resolve("lora_te_" + layer.removesuffix(".weight").replace(".", "_")).name == name


def test_flux_norms_are_called_weight(tmp_path):
    stored = "model.diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale"
    base = open_base(saved(tmp_path / "m.safetensors", {stored: torch.ones(4)}))
    assert list(base.weights()) == [stored.removeprefix("model.").removesuffix("scale") + "weight"]


@pytest.mark.parametrize(
    "prefix, width, encoder",
    [
        ("cond_stage_model.model.", 1024, "clip_h"),
        ("conditioner.embedders.0.model.", 1280, "clip_g"),
        ("conditioner.embedders.1.model.", 1280, "clip_g"),
    ],
)
def test_open_clip_tower(tmp_path, prefix, width, encoder):
    """Diffusers' converter is the oracle for names and the split of the fused projection."""
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    block = "transformer.resblocks.0."
    tower = {
        block + "attn.in_proj_weight": (3 * width, 2),
        block + "attn.in_proj_bias": (3 * width,),
        block + "attn.out_proj.weight": (width, 2),
        block + "attn.out_proj.bias": (width,),
        block + "mlp.c_fc.weight": (8, 2),
        block + "mlp.c_proj.weight": (width, 2),
        block + "ln_1.weight": (width,),
        block + "ln_2.bias": (width,),
        "ln_final.weight": (width,),
        "positional_embedding": (7, 2),
        "token_embedding.weight": (9, 2),
        "text_projection": (width, 3),
    }
    tower = {prefix + name: torch.randn(shape) for name, shape in tower.items()}
    expected = utils.convert_open_clip_checkpoint(
        SimpleNamespace(config=SimpleNamespace(hidden_size=width)), tower, prefix
    )
    base = open_base(saved(tmp_path / "m.safetensors", {"model.diffusion_model." + QUERY: torch.randn(8, 4)} | tower))
    found = {name: base.load(name) for name in base.weights() if name.startswith(encoder)}
    theirs = {f"{encoder}.transformer.{name}": tensor for name, tensor in expected.items()}
    projection = f"{encoder}.transformer.text_projection.weight"  # left out of SD 2 over there
    theirs.setdefault(projection, tower[prefix + "text_projection"].T)
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[name], theirs[name]) for name in theirs)
    value = f"{encoder}.transformer.text_model.encoder.layers.0.self_attn.v_proj.weight"
    assert torch.equal(base.load(value, (5, 11)), theirs[value][5:16])
    assert torch.equal(base.load(projection, (1, 2)), theirs[projection][1:3])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_number_formats(tmp_path, dtype):
    weight = torch.randn(6, 4, 3, 3).to(dtype)
    base = open_base(saved(tmp_path / "m.safetensors", {"a.weight": weight}))
    loaded = base.load("diffusion_model.a.weight")
    assert loaded.dtype == torch.float32 and torch.equal(loaded, weight.float())
    assert torch.equal(base.load("diffusion_model.a.weight", (2, 3)), weight[2:5].float())
    loaded.zero_()  # it belongs to the caller
    assert torch.equal(base.load("diffusion_model.a.weight"), weight.float())


@pytest.mark.parametrize("ending", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("shape", [(), (1,), (6, 1)])
def test_scaled_fp8(tmp_path, ending, shape):
    weight, scale = torch.randn(6, 4).to(torch.float8_e4m3fn), torch.rand(shape) + 0.5
    tensors = {"a.weight": weight, f"a.{ending}": scale, "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    base = open_base(saved(tmp_path / "m.safetensors", {"model.diffusion_model." + k: v for k, v in tensors.items()}))
    name = "diffusion_model.a.weight"
    assert torch.equal(base.load(name), weight.float() * scale)
    assert torch.equal(base.load(name, (2, 3)), (weight.float() * scale)[2:5])
    plain = open_base(saved(tmp_path / "p.safetensors", {"model.diffusion_model.a.weight": weight}))
    assert plain.digest(name) != base.digest(name)


def test_hashes_follow_content(tmp_path, one):
    path, weight = one
    name = "diffusion_model.blocks.0.proj.weight"
    base, copy = open_base(path), open_base(saved(tmp_path / "copy.safetensors", {"blocks.0.proj.weight": weight}))
    assert base.digest(name) == copy.digest(name) and base.fingerprint == copy.fingerprint
    saved(tmp_path / "copy.safetensors", {"blocks.0.proj.weight": weight + 1})
    os.utime(tmp_path / "copy.safetensors", ns=(1, 1))
    assert copy.digest(name) != base.digest(name), "a changed file must not be answered from memory"
    assert open_base(tmp_path / "copy.safetensors").fingerprint != base.fingerprint
    half = open_base(saved(tmp_path / "half.safetensors", {"blocks.0.proj.weight": weight.half()}))
    assert half.digest(name) != base.digest(name)
    flat = open_base(saved(tmp_path / "flat.safetensors", {"blocks.0.proj.weight": weight.reshape(4, 6)}))
    assert flat.digest(name) != base.digest(name)


def test_one_weight_resident_at_a_time(tmp_path):
    """256 MB read weight by weight, all of it hashed: the process never holds more than a few weights (8 MB each)."""
    pytest.importorskip("psutil")
    path, rows = tmp_path / "big.safetensors", 1024
    header = {
        f"blocks.{i}.w.weight": {"dtype": "F16", "shape": [rows, 4096], "data_offsets": [i << 23, (i + 1) << 23]}
        for i in range(32)
    }
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for _ in range(32):
            file.write(torch.ones(rows, 4096, dtype=torch.float16).numpy().tobytes())
    code = f"""
import psutil, torch
from lora_graft.bases import open_base
base = open_base({str(path)!r})
names = list(base.weights())
base.load(names[0]); base.digest(names[0]); base.fingerprint
process = psutil.Process()
start = process.memory_info().rss
top = 0
for name in names:
    assert float(base.load(name)[-1, -1]) == 1.0
    base.digest(name)
    top = max(top, process.memory_info().rss - start)
print(top)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120e6


def test_rows_read_only_their_bytes(tmp_path, monkeypatch):
    from lora_graft.io.safetensors import TensorFile

    base = open_base(saved(tmp_path / "m.safetensors", {"a.weight": torch.randn(100, 10)}))
    sizes, read = [], TensorFile.raw
    monkeypatch.setattr(TensorFile, "raw", lambda self, *args: sizes.append(len(got := read(self, *args))) or got)
    base.load("diffusion_model.a.weight", (20, 3))
    assert sizes == [3 * 10 * 4]


def refused(path, *words, key=None):
    with pytest.raises(BaseModelError) as caught:
        open_base(path)
    for word in (path.name, *words):
        assert word in str(caught.value)
    assert caught.value.key == key


def test_refused_files(tmp_path, one):
    path, _ = one
    good = path.read_bytes()

    def broken(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    refused(tmp_path / "nowhere.safetensors", "does not exist")
    refused(broken("empty.safetensors", b""), "empty")
    refused(broken("head.safetensors", good[:20]), "truncated")
    refused(broken("tail.safetensors", good[:-5]), "truncated", key="blocks.0.proj.weight")
    refused(broken("page.safetensors", b"<!DOCTYPE html><html></html>" * 9), "web page")
    refused(broken("list.safetensors", struct.pack("<Q", 12) + b"[]" + b" " * 10), "Not a safetensors file")
    refused(broken("none.safetensors", struct.pack("<Q", 2) + b"{}"), "No weights")
    lying = json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}).encode()
    refused(broken("lie.safetensors", struct.pack("<Q", len(lying)) + lying + b"12345678"), "contradicts", key="a")
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()
    refused(broken("gap.safetensors", struct.pack("<Q", len(header)) + header + b"12345678"), "gap", key="a")
    refused(broken("long.safetensors", good + b"hidden"), "6 bytes more")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.ckpt")
    refused(tmp_path / "old.ckpt", "pickle", "safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "disguised.safetensors")
    refused(tmp_path / "disguised.safetensors", "pickle file")
    torch.save({"a": torch.ones(2)}, tmp_path / "older.safetensors", _use_new_zipfile_serialization=False)
    refused(tmp_path / "older.safetensors", "pickle file")
    lora = {"x.lora_up.weight": torch.ones(2, 2), "x.lora_down.weight": torch.ones(2, 2)}
    refused(saved(tmp_path / "lora.safetensors", lora), "adapter")


def test_refused_folders(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "no safetensors model")
    (empty / "unet").mkdir()
    torch.save({}, empty / "unet" / "diffusion_pytorch_model.bin")
    refused(empty, "no safetensors model", "Pickled")
    index = empty / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "shard-1.safetensors"}}))
    with pytest.raises(BaseModelError, match="shard-1.safetensors"):
        open_base(empty)
    index.write_text("{")
    with pytest.raises(BaseModelError, match="index"):
        open_base(empty)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_refused_weights(tmp_path, bad):
    weight = torch.randn(6, 4)
    weight[3, 2] = bad
    quantised = torch.randint(0, 9, (6, 4), dtype=torch.uint8)
    blocks = {"c.weight": torch.randn(4, 4).to(torch.float8_e4m3fn), "c.weight_scale": torch.ones(4, 2)}
    base = open_base(saved(tmp_path / "m.safetensors", {"a.weight": weight, "b.weight": quantised} | blocks))
    with pytest.raises(BaseModelError, match="NaN or Inf") as caught:
        base.load("diffusion_model.a.weight")
    assert caught.value.key == "diffusion_model.a.weight" and "m.safetensors" in str(caught.value)
    assert base.load("diffusion_model.a.weight", (0, 3)).shape == (3, 4)
    with pytest.raises(BaseModelError, match="U8"):
        base.load("diffusion_model.b.weight")
    with pytest.raises(BaseModelError, match="blocks"):
        base.load("diffusion_model.c.weight")
    with pytest.raises(BaseModelError, match="no such weight"):
        base.load("diffusion_model.z.weight")
    with pytest.raises(BaseModelError, match="outside"):
        base.load("diffusion_model.a.weight", (4, 3))
