"""Bases in GGUF files: read as llama.cpp's own package decodes them, rows included; lies are refused."""

import struct

import gguf
import numpy
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.bases import open_base
from lora_graft.cli.app import app
from lora_graft.errors import BaseModelError
from lora_graft.io.gguf import TYPES, GgufFile
from lora_graft.jobs.transfer.compare import compare
from safetensors.torch import save_file
from typer.testing import CliRunner

QUERY = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def written(path, tensors, *, architecture="sd1", **values):
    """A file by the gguf package. tensors: name -> (array, Kind, original shape or None)."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in values.items():
        writer.add_string(f"general.{name}", value)
    for name, (array, kind, shape) in tensors.items():
        if shape is not None:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(n) for n in shape])
        if kind in (Kind.F32, Kind.F16):
            writer.add_tensor(name, array.astype(numpy.float32 if kind is Kind.F32 else numpy.float16))
        else:
            data = array if array.dtype == numpy.uint8 else gguf.quants.quantize(array.astype(numpy.float32), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind, rows, columns, seed=0):
    """Random bytes of a quantised matrix, whose scales, wherever they lie, are small fp16 or fp8 numbers."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    dice = numpy.random.default_rng(seed)
    data = dice.integers(0, 120, (rows, columns // block * size), dtype=numpy.uint8)
    return data & 0x3B  # an fp16 number of such bytes is finite


def exact(path, name):
    """A tensor as the gguf package decodes it."""
    found = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return torch.from_numpy(gguf.quants.dequantize(found.data, found.tensor_type).copy())


@pytest.mark.parametrize("kind", [k for k in gguf.GGML_QUANT_SIZES if int(k) in TYPES and k is not Kind.F64])
def test_every_type(tmp_path, kind):
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    columns = max(2 * block, 64)
    plain = kind in (Kind.F32, Kind.F16)
    array = numpy.random.default_rng(0).normal(size=(6, columns)) if plain else blocks(kind, 6, columns)
    file = written(tmp_path / "m.gguf", {QUERY: (array, kind, None)})
    base = open_base(file)
    right = exact(file, QUERY).float().reshape(6, columns)
    name = f"diffusion_model.{QUERY}"
    assert base.weights() == {name: (6, columns)}
    assert bool(right.any()) and torch.equal(base.load(name), right)
    assert base.storage(name) == {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(kind.name, kind.name)
    assert torch.equal(base.load(name, (2, 3)), right[2:5])


def test_sizes_of_types_are_the_librarys():
    for number, (name, block, size) in TYPES.items():
        assert Kind(number).name == name and gguf.GGML_QUANT_SIZES[Kind(number)] == (block, size)


def test_original_shapes_and_rows_across_blocks(tmp_path):
    values = numpy.random.default_rng(0).normal(size=(8, 64)).astype(numpy.float32)
    file = written(tmp_path / "m.gguf", {"blocks.0.proj.weight": (values, Kind.Q8_0, (32, 4, 2, 2))})
    base = open_base(file)
    (name,) = base.weights()
    right = exact(file, "blocks.0.proj.weight").reshape(32, 4, 2, 2)
    assert base.weights()[name] == (32, 4, 2, 2)
    assert torch.equal(base.load(name), right) and torch.equal(base.load(name, (3, 7)), right[3:10])


def test_large_weights_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_graft.io.gguf._AT_ONCE", 100)
    values = numpy.random.default_rng(0).normal(size=(9, 96)).astype(numpy.float32)
    file = written(tmp_path / "m.gguf", {QUERY: (values, Kind.Q4_0, None)})
    assert torch.equal(open_base(file).load(f"diffusion_model.{QUERY}"), exact(file, QUERY).reshape(9, 96))


def test_the_same_base_whole_and_quantised(tmp_path):
    """A quantised base counts as the same base: subspaces agree, the weights lie close."""
    generator = torch.Generator().manual_seed(0)
    falling = torch.arange(1, 65).float() ** -1.0
    weight = (torch.randn(64, 64, generator=generator) * falling) @ torch.randn(64, 768, generator=generator)
    save_file({QUERY: weight.half()}, tmp_path / "whole.safetensors")
    file = written(tmp_path / "small.gguf", {QUERY: (weight.numpy(), Kind.Q8_0, None)})
    line = compare(open_base(tmp_path / "whole.safetensors"), open_base(file)).modules[0]
    assert line.phi_left > 0.99 and line.phi_right > 0.99 and 0 < line.drift < 0.02
    assert line.rounded == "fp16 and Q8_0"


def test_digest_follows_the_bytes(tmp_path):
    arrays = [blocks(Kind.Q8_0, 4, 64, seed) for seed in (0, 0, 1)]
    files = [written(tmp_path / f"{i}.gguf", {QUERY: (a, Kind.Q8_0, None)}) for i, a in enumerate(arrays)]
    digests = [open_base(file).digest(f"diffusion_model.{QUERY}") for file in files]
    assert digests[0] == digests[1] != digests[2]
    assert open_base(files[0]).fingerprint != open_base(files[2]).fingerprint


def test_on_the_command_line(tmp_path):
    files = [
        written(tmp_path / f"{i}.gguf", {QUERY: (blocks(Kind.Q8_0, 64, 64, i), Kind.Q8_0, None)}) for i in range(2)
    ]
    result = CliRunner().invoke(app, ["similarity", *map(str, files)])
    assert result.exit_code == 0 and "strangers" in result.output


def test_without_the_gguf_package(tmp_path, monkeypatch):
    tensors = {
        QUERY: (blocks(Kind.Q8_0, 4, 64), Kind.Q8_0, None),
        "other.weight": (numpy.ones((2, 32)), Kind.F16, None),
    }
    base = open_base(written(tmp_path / "m.gguf", tensors))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    assert torch.equal(base.load("diffusion_model.other.weight"), torch.ones(2, 32))
    with pytest.raises(BaseModelError, match=r"Q8_0") as caught:
        base.load(f"diffusion_model.{QUERY}")
    assert "lora-graft[gguf]" in str(caught.value) and QUERY in str(caught.value)


@pytest.mark.parametrize(
    ("name", "architecture"), [("blk.0.attn_q.weight", "llama"), ("enc.blk.0.attn_q.weight", "t5encoder")]
)
def test_language_models_are_refused(tmp_path, name, architecture):
    file = written(tmp_path / "m.gguf", {name: (numpy.ones((2, 32)), Kind.F16, None)}, architecture=architecture)
    with pytest.raises(BaseModelError, match=architecture) as caught:
        open_base(file)
    assert "m.gguf" in str(caught.value)


def header(tensors=(), values=(), version=3, counts=None):
    """The bytes of a header. tensors: (name, dims, kind, offset); values: raw bytes of pairs."""
    data = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(values)))) + b"".join(values)
    for name, dims, kind, offset in tensors:
        data += (
            struct.pack("<Q", len(name))
            + name.encode()
            + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        )
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header(version=9), "version"),
        (header(counts=(1 << 40, 0)), "tensors"),
        (header(counts=(1, 0)), "truncated"),
        (header([("a.weight", (32, 2), 8, 0)]), "truncated"),
        (header([("a.weight", (32, 2), 99, 0)]), "type 99"),
        (header([("a.weight", (31, 2), 8, 0)]), "blocks"),
        (header([("a.weight", (2,), 0, 0)] * 2) + bytes(64), "one name"),
        (header([("a.weight", (2,), 0, 0), ("b.weight", (2,), 0, 4)]) + bytes(64), "overlap"),
        (header([("a.weight", (1 << 62, 1 << 62), 0, 0)]), "truncated"),
        (header([("a.weight", (1,) * 9, 0, 0)]), "dimensions"),
        (header(values=[struct.pack("<Q", 1 << 50)]), "text"),
        (header(values=[struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 1 << 50)]), "arrays"),
        (header(values=[struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 9, 1)]), "holds arrays"),
        (header(values=[struct.pack("<Q", 1) + b"a" + struct.pack("<I", 77)]), "type 77"),
        (header([("a.weight", (32, 2), 8, 0)])[:-3], "truncated"),
    ],
)
def test_lies_are_refused(tmp_path, data, words):
    file = tmp_path / "lie.gguf"
    file.write_bytes(data)
    with pytest.raises(BaseModelError, match=words) as caught:
        open_base(file)
    assert "lie.gguf" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_never_end_in_a_traceback(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    file = written(folder / "m.gguf", {QUERY: (blocks(Kind.Q8_0, 4, 64), Kind.Q8_0, (16, 16))}, name="x")
    body = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(body), 400) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=9))
    file.write_bytes(body[: data.draw(st.integers(1, len(body)))] if data.draw(st.booleans()) else body)
    try:
        base = open_base(file)
        for name, shape in base.weights().items():
            assert tuple(base.load(name).shape) == shape
    except BaseModelError as problem:
        assert "m.gguf" in str(problem)


def test_a_file_that_shrinks(tmp_path):
    file = written(tmp_path / "m.gguf", {QUERY: (blocks(Kind.Q8_0, 4, 64), Kind.Q8_0, None)})
    opened = GgufFile(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BaseModelError, match="truncated"):
        opened.load(QUERY)
