"""Files: nothing lost on the way through, nothing written when anything is wrong, and errors that name the place."""

import json
import multiprocessing
import pickle
import re
import struct
import subprocess
import sys
import zipfile

import pytest
import torch
from adapter_samples import SAMPLES, relative
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_graft import adapters
from lora_graft.errors import AdapterError, SettingsError
from safetensors.torch import load_file, save_file

METADATA = {"ss_network_dim": "4", "modelspec.title": "Ü ☃", "ss_tag_frequency": json.dumps({"1_a": {"cat": 3}})}


def everything(dtype=torch.float32):
    """One file with a module of every format, an embedded vector and a key nobody knows."""
    tensors = {}
    for i, (name, sample) in enumerate(SAMPLES.items()):
        key = f"lora_unet_{name.replace(' ', '_')}"
        tensors |= {key + s: t for s, t in sample.tensors(i, dtype).items()}
    return tensors | {"bundle_emb.sks.clip_l": torch.randn(2, 768).to(dtype), "unheard_of": torch.arange(3)}


def same_bits(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))
    )


FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS)
def test_same_layout_is_bit_identical(tmp_path, dtype):
    tensors = everything(dtype)
    save_file(tensors, tmp_path / "in.safetensors", metadata=METADATA)
    adapter = adapters.read(tmp_path / "in.safetensors")
    assert set(adapter.extras) == {"bundle_emb.sks.clip_l", "unheard_of"}
    assert len(adapter.modules) == len(SAMPLES)
    out = adapters.write(adapter, tmp_path / "out.safetensors")
    found = load_file(out)
    assert found.keys() == tensors.keys()
    assert all(same_bits(found[k], tensors[k]) for k in tensors)
    assert adapters.read(out).metadata == METADATA


names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(names, min_size=1, max_size=4, unique=True),
    dtype=dtypes,
    rank=st.integers(1, 5),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    seed=st.integers(0, 999),
    with_alpha=st.booleans(),
    spelling=st.sampled_from(["lora", "lora peft", "lora diffusers", "lora text encoder"]),
    metadata=st.dictionaries(names.filter(lambda n: n != "lora_adapter_metadata"), st.text(max_size=8), max_size=3),
)
def test_save_then_reload(tmp_path, keys, dtype, rank, rows, columns, seed, with_alpha, spelling, metadata):
    generator = torch.Generator().manual_seed(seed)
    up, down = (s for s in SAMPLES[spelling].tensors() if s != ".alpha")
    tensors = {}
    for key in keys:
        tensors[key + up] = torch.randn(rows, rank, generator=generator).to(dtype)
        tensors[key + down] = torch.randn(columns, rank, generator=generator).to(dtype).T
        if with_alpha:
            tensors[key + ".alpha"] = torch.tensor(1.5)
    adapter = adapters.from_state_dict(tensors, metadata)
    out = adapters.write(adapter, tmp_path / "x.safetensors", overwrite=True)
    again = adapters.read(out)
    assert again.metadata == metadata and list(again.modules) == sorted(adapter.modules, key=list(again.modules).index)
    assert all(
        same_bits(again.modules[m].tensors[s], t)
        for m, module in adapter.modules.items()
        for s, t in module.tensors.items()
    )
    scale = 1.5 / rank if with_alpha else 1.0
    for key in keys:
        left, right = tensors[key + up].double(), tensors[key + down].double()
        away = again.modules[key].low_rank().dense() - scale * left @ right
        assert away.norm() <= 1e-6 * scale * left.norm() * right.norm(), "of the factors: their product may cancel"


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 0), ("fp16", 2e-3), ("bf16", 2e-2)])
def test_dtypes(tmp_path, dtype, bound):
    adapter = adapters.from_state_dict(everything())
    again = adapters.read(adapters.write(adapter, tmp_path / "x.safetensors", dtype=dtype))
    for key, module in adapter.modules.items():
        sample = next(s for n, s in SAMPLES.items() if key == f"lora_unet_{n.replace(' ', '_')}")
        assert relative(again.modules[key].delta(sample.weight()), module.delta(sample.weight())) <= bound
        if ".alpha" in module.tensors:
            assert float(again.modules[key].tensors[".alpha"]) == float(module.tensors[".alpha"])
    assert again.extras["unheard_of"].dtype == torch.int64


def test_fp16_overflow_is_refused(tmp_path):
    tensors = {"x.lora_up.weight": torch.full((4, 2), 1e6), "x.lora_down.weight": torch.ones(2, 4)}
    with pytest.raises(AdapterError, match=r"does not fit.*x\.lora_up\.weight"):
        adapters.write(adapters.from_state_dict(tensors), tmp_path / "x.safetensors", dtype="fp16")
    assert not list(tmp_path.iterdir())


def test_same_input_same_bytes_in_any_process(tmp_path):
    save_file(everything(torch.float16), tmp_path / "in.safetensors", metadata=METADATA)
    code = (
        "import sys; from lora_graft import adapters as a\n"
        "a.write(a.read(sys.argv[1]), sys.argv[2], provenance={'b': 1, 'a': {'k': [2]}})"
    )
    for name in ("one", "two"):
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "in.safetensors", tmp_path / f"{name}.safetensors"], check=True
        )
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_digest(tmp_path):
    tensors = everything()
    save_file(tensors, tmp_path / "a.safetensors")
    save_file({**tensors, "unheard_of": torch.arange(3) + 1}, tmp_path / "b.safetensors")
    a, b = (adapters.read(tmp_path / f"{n}.safetensors") for n in "ab")
    assert re.fullmatch("[0-9a-f]{64}", a.digest) and a.digest != b.digest
    assert adapters.from_state_dict(tensors).digest == adapters.from_state_dict(dict(reversed(tensors.items()))).digest
    assert adapters.to_state_dict(a).digest == a.digest
    assert adapters.to_state_dict(a, dtype="fp32").digest == a.digest, "they are fp32 already"


def test_other_tensors_do_not_have_the_files_digest(tmp_path):
    save_file(everything(), tmp_path / "a.safetensors")
    a = adapters.read(tmp_path / "a.safetensors")
    half = adapters.to_state_dict(a, dtype="bf16")
    assert half.digest == "" and half.file == a.file
    assert adapters.from_state_dict(half).digest not in ("", a.digest)


def test_provenance_and_stale_hashes(tmp_path):
    adapter = adapters.from_state_dict(everything(), {**METADATA, "sshs_model_hash": "abc"})
    out = adapters.write(adapter, tmp_path / "x.safetensors", provenance={"method": "copy", "energy": 0.5, "k": None})
    found = adapters.read(out).metadata
    assert found["lora_graft.method"] == "copy" and found["lora_graft.energy"] == "0.5"
    assert "sshs_model_hash" not in found and found["lora_graft.source.sshs_model_hash"] == "abc"
    assert METADATA.items() <= found.items()


def test_lora_state_travels(tmp_path):
    tensors = everything()
    save_file(tensors, tmp_path / "x.safetensors", metadata=METADATA)
    state = adapters.to_state_dict(adapters.read(tmp_path / "x.safetensors"))
    assert isinstance(state, dict) and state.keys() == tensors.keys()
    again = adapters.from_state_dict(state)
    assert again.metadata == METADATA and again.file == str(tmp_path / "x.safetensors")


def test_tensors_that_share_memory(tmp_path):
    whole = torch.randn(8, 8)
    tensors = {
        "x.lora_up.weight": whole[:, :4],
        "x.lora_down.weight": whole[:4].T.T,
        "y.lora_up.weight": whole[:, :4],
        "y.lora_down.weight": whole.T[:4],
    }
    again = adapters.read(adapters.write(adapters.from_state_dict(tensors), tmp_path / "x.safetensors"))
    assert torch.equal(again.modules["y"].tensors[".lora_down.weight"], whole.T[:4])


# ---- bad input: an error naming the file, and nothing written

PAIR = {"m.lora_up.weight": torch.ones(4, 2), "m.lora_down.weight": torch.ones(2, 4)}


def saved(tmp_path, tensors, name="bad.safetensors"):
    save_file(tensors, tmp_path / name)
    return tmp_path / name


def test_missing_file(tmp_path):
    with pytest.raises(AdapterError, match="No such file"):
        adapters.read(tmp_path / "none.safetensors")
    with pytest.raises(AdapterError, match="folder"):
        adapters.read(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 8, 9, 40, -1, -17])
def test_truncated(tmp_path, keep):
    path = saved(tmp_path, PAIR)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdapterError, match="truncated|empty") as caught:
        adapters.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello, this is not it at all", "Not a safetensors file"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (struct.pack("<Q", 30) + b"{" + b"x" * 29, "makes no sense"),
        (struct.pack("<Q", 2) + b"{}", "no tensors"),
        (struct.pack("<Q", 22) + b'{"a":{"dtype":"F32"}} ', "makes no sense"),
    ],
    ids=["text", "html", "lfs", "garbled", "empty", "incomplete header"],
)
def test_not_safetensors(tmp_path, content, says):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=says) as caught:
        adapters.read(path)
    assert str(path) in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (open, ("/nonexistent/never", "w"))


@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x.bin", "x.safetensors"])
@pytest.mark.parametrize("form", ["torch", "plain", "zip"])
def test_pickles_are_refused_unopened(tmp_path, name, form):
    path = tmp_path / name
    if form == "torch":
        torch.save(PAIR, path)
    elif form == "plain":
        path.write_bytes(pickle.dumps(Bomb(), protocol=4))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Bomb()))
    with pytest.raises(AdapterError, match="pickle.*refused"):
        adapters.read(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_or_inf(tmp_path, value, dtype):
    bad = torch.ones(4, 2)
    bad[2, 1] = value
    path = saved(tmp_path, {**PAIR, "n.lora_up.weight": bad.to(dtype), "n.lora_down.weight": torch.ones(2, 4)})
    with pytest.raises(AdapterError, match=r"NaN|Inf") as caught:
        adapters.read(path)
    assert caught.value.key == "n.lora_up.weight" and caught.value.file == str(path)


PAIRED = [n for n in SAMPLES if n.split()[0] in ("lora", "locon", "loha", "lokr", "glora")]


@pytest.mark.parametrize("name", PAIRED)
def test_half_of_a_pair_missing(tmp_path, name):
    """Whatever factor is left out, the error names it (or its partner); nothing is read as something else."""
    factors = [
        s
        for s, t in SAMPLES[name].tensors().items()
        if t.ndim > 1 and s not in (".lora_mid.weight", ".lokr_t2") and s not in (".lokr_w1", ".lokr_w2")
    ]
    for left_out in factors:
        tensors = {"m" + s: t for s, t in SAMPLES[name].tensors().items() if s != left_out}
        if left_out == ".a1.weight":
            continue  # the key that marks GLoRA: without it the rest is unknown, see below
        with pytest.raises(AdapterError, match="Half of a pair is missing") as caught:
            adapters.from_state_dict(tensors, file="f")
        assert caught.value.key.startswith("m")


def test_alpha_that_overflowed_but_means_nothing(tmp_path):
    """LyCORIS writes alpha = 100000 for full LoKr factors, which fp16 turns into infinity; nothing uses it."""
    tensors = {"m" + s: t.half() for s, t in SAMPLES["lokr full"].tensors().items()}
    tensors["m.alpha"] = torch.tensor(1e5).half()
    adapter = adapters.read(saved(tmp_path, tensors))
    expected = adapters.from_state_dict({**tensors, "m.alpha": torch.tensor(1.0)}).modules["m"].delta()
    again = adapters.read(adapters.write(adapter, tmp_path / "out.safetensors", dtype="fp32"))
    assert torch.equal(adapter.modules["m"].delta(), expected) and torch.equal(again.modules["m"].delta(), expected)
    with pytest.raises(AdapterError, match="Inf"):
        adapters.from_state_dict({**PAIR, "m.alpha": torch.tensor(float("inf"))})


def test_bias_alone():
    module = adapters.from_state_dict({"m.diff_b": torch.ones(4)}).modules["m"]
    assert module.kind == "bias" and not module.delta().any() and module.delta(torch.ones(4, 3)).shape == (4, 3)
    assert torch.equal(module.scaled(0.5).bias(), torch.full((4,), 0.5)) and not module.low_rank().dense().any()


def test_rank_mismatch_and_zero_rank():
    with pytest.raises(AdapterError, match=r"Rank mismatch: up is \(4, 3\), down is \(2, 4\).*key m"):
        adapters.from_state_dict({**PAIR, "m.lora_up.weight": torch.ones(4, 3)})
    with pytest.raises(AdapterError, match="Zero rank"):
        adapters.from_state_dict({"m.lora_up.weight": torch.ones(4, 0), "m.lora_down.weight": torch.ones(0, 4)})
    with pytest.raises(AdapterError, match="Rank mismatch"):
        tensors = SAMPLES["loha"].tensors()
        adapters.from_state_dict({"m" + s: t[:, :2] if s == ".hada_w1_a" else t for s, t in tensors.items()})


def test_two_changes_of_one_weight():
    with pytest.raises(AdapterError, match="several ways"):
        adapters.from_state_dict({**PAIR, "m.diff": torch.ones(4, 4)})
    with pytest.raises(AdapterError, match="Several factor pairs"):
        adapters.from_state_dict({**PAIR, "m.lora_A.weight": torch.ones(2, 4), "m.lora_B.weight": torch.ones(4, 2)})


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"model.diffusion_model.out.2.weight": torch.ones(4)}, "full model checkpoint"),
        ({"layers.0.weight": torch.ones(4), "layers.0.bias": torch.ones(4)}, "full model checkpoint"),
        ({"emb_params": torch.ones(2, 768)}, "textual-inversion"),
        ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, "textual-inversion"),
        ({"base_model.model.x.oft_R.weight": torch.ones(2, 3)}, "PEFT's OFT"),
        ({"something": torch.ones(2)}, "none of its keys"),
        ({"x.alpha": torch.tensor(1.0)}, "none of its keys"),
    ],
)
def test_no_adapter_inside(tmp_path, tensors, says):
    with pytest.raises(AdapterError, match=says):
        adapters.read(saved(tmp_path, tensors))


def test_wrong_shape_and_missing_base():
    module = adapters.from_state_dict(PAIR).modules["m"]
    assert module.fits((4, 4)) and not module.fits((4, 5)) and not module.fits((5, 4))
    with pytest.raises(AdapterError, match=r"\(4, 4\).*\(4, 5\)"):
        module.delta(torch.ones(4, 5))
    for name in ("oft", "boft", "glora", "ia3", "dora by output", "set"):
        module = adapters.from_state_dict({"m" + s: t for s, t in SAMPLES[name].tensors().items()}).modules["m"]
        assert module.needs_base and not module.fits((7, 11))
        with pytest.raises(AdapterError, match="means nothing without it"):
            module.low_rank()


# ---- writing


def test_existing_output_is_left_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(AdapterError, match="exists already"):
        adapters.write(adapters.from_state_dict(PAIR), path)
    assert path.read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 1
    adapters.write(adapters.from_state_dict(PAIR), path, overwrite=True)
    assert adapters.read(path).modules and len(list(tmp_path.iterdir())) == 1


def test_bad_outputs(tmp_path):
    adapter = adapters.from_state_dict(PAIR)
    with pytest.raises(AdapterError, match="cannot be written"):
        adapters.write(adapter, tmp_path / "no folder" / "x.safetensors")
    with pytest.raises(AdapterError, match=r"\.safetensors only"):
        adapters.write(adapter, tmp_path / "x.pt")
    with pytest.raises(SettingsError, match="dtype"):
        adapters.write(adapter, tmp_path / "x.safetensors", dtype="fp4")
    with pytest.raises(SettingsError, match="layout"):
        adapters.write(adapter, tmp_path / "x.safetensors", layout="other")
    with pytest.raises(SettingsError, match="names"):
        adapters.write(adapter, tmp_path / "x.safetensors", layout="kohya")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file size are POSIX")
def test_disk_full_leaves_nothing(tmp_path):
    """A real write that the system cuts off in the middle."""
    code = """
import resource, signal, sys, torch
from lora_graft import adapters
from lora_graft.errors import AdapterError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
adapter = adapters.from_state_dict({"m.lora_up.weight": torch.ones(4000, 4), "m.lora_down.weight": torch.ones(4, 4000)})
try:
    adapters.write(adapter, sys.argv[1])
except AdapterError as problem:
    print(problem)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.safetensors"], capture_output=True, text=True)
    assert "cannot be written" in done.stdout and "x.safetensors" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def _racer(path, value, gate, results):
    up, down = torch.full((400, 4), value), torch.ones(4, 40)
    adapter = adapters.from_state_dict({"m.lora_up.weight": up, "m.lora_down.weight": down})
    gate.wait()
    try:
        adapters.write(adapter, path)
        results.put(value)
    except AdapterError:
        results.put(None)


def test_racing_writers_never_overwrite(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform != "win32" else "spawn")
    gate, results = context.Event(), context.Queue()
    path = tmp_path / "x.safetensors"
    writers = [context.Process(target=_racer, args=(path, float(i), gate, results)) for i in range(4)]
    for writer in writers:
        writer.start()
    gate.set()
    won = [value for value in (results.get(timeout=300) for _ in writers) if value is not None]
    for writer in writers:
        writer.join()
    assert len(won) == 1
    tensors = adapters.read(tmp_path / "x.safetensors").modules["m"].tensors
    assert float(tensors[".lora_up.weight"][0, 0]) == won[0] and len(list(tmp_path.iterdir())) == 1


def test_no_hard_links(tmp_path, monkeypatch):
    """On file systems without them the name is claimed first, and an existing file is still left alone."""

    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    path = adapters.write(adapters.from_state_dict(PAIR), tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="exists"):
        adapters.write(adapters.from_state_dict(PAIR), path)
    assert adapters.read(path).modules and len(list(tmp_path.iterdir())) == 1
