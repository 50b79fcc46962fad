"""Files made to blow up: small on disk, endless in what they promise. Each ends in a clear error or a right result."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import containers
import corpus
import hostile
from containers import File, packed
from promise import Sandbox

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
UP, DOWN = f"{Q}.lora_up.weight", f"{Q}.lora_down.weight"


@pytest.fixture
def box(tmp_path, monkeypatch):
    for name in ("LORA_GRAFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.chdir(tmp_path)
    made = Sandbox(tmp_path)
    made.fresh()
    yield made
    os.chdir(tmp_path)


def header(entries: dict, data: bytes = b"") -> bytes:
    return packed(json.dumps(entries), data)


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def empty_rank(rank):
    return header({UP: entry([4, rank], 0, 0), DOWN: entry([rank, 0], 0, 0)})


REFUSED = {
    "terabytes of header": lambda: (1 << 40).to_bytes(8, "little") + b"{" + b" " * 99,
    "terabytes of tensor": lambda: header({UP: entry([1 << 20, 1 << 20], 0, 1 << 42), DOWN: entry([1], 0, 4)}, b"1234"),
    "overlapping": lambda: header({UP: entry([4, 2], 0, 32), DOWN: entry([2, 4], 8, 40)}, bytes(64)),
    "out of range": lambda: header({UP: entry([4, 2], 0, 32), DOWN: entry([2, 4], 1 << 60, (1 << 60) + 32)}, bytes(64)),
    "backwards": lambda: header({UP: entry([4, 2], 32, 0), DOWN: entry([2, 4], 64, 32)}, bytes(64)),
    "a rank of a billion": lambda: empty_rank(10**9),
    "a rank beyond 64 bits": lambda: empty_rank(10**30),
    "LoKr a million wide": lambda: File(
        {f"{Q}.lokr_w1": torch.ones(1000, 1000), f"{Q}.lokr_w2": torch.ones(1000, 1000)}
    ).to_bytes(),
    "LoRA a million wide": lambda: File({UP: torch.ones(10**6, 1), DOWN: torch.ones(1, 10**6)}).to_bytes(),
    "a million keys of one letter": lambda: packed(
        "{" + ",".join(['"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}'] * 10**6) + "}", bytes(4)
    ),
    "150,000 tensors": lambda: packed(
        json.dumps({f"{i:x}.diff": entry([1], 4 * i, 4 * i + 4) for i in range(150_000)}), bytes(600_000)
    ),
    "a header of brackets": lambda: packed("[" * 20_000_000),
    "a header of unclosed strings": lambda: packed('{"a":[' * 200 + '"\\' * 5_000_000),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, box):
    lora = box.put("lora.safetensors", REFUSED[name]())
    assert box.cli("inspect", lora) == "refused"
    out = box.out / "x.safetensors"
    assert box.cli("resize", "--rank", "1", "-o", out, lora, writes=(out,)) == "refused"
    if "LoKr" not in name and "LoRA" not in name:  # those are checkpoints of two weights
        assert box.cli("similarity", lora, lora) == "refused"


def test_wide_products_are_measured_by_their_factors(box):
    """A LoHa and a LoKr of 40,000 by 40,000: 6 GB each if they were multiplied out."""
    for suffixes in ((".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b"), None):
        if suffixes:
            n = 40_000
            shapes = [(n, 1), (1, n)] * 2
            tensors = {Q + s: torch.ones(shape) / n**0.5 for s, shape in zip(suffixes, shapes, strict=True)}
        else:
            tensors = {f"{Q}.lokr_w1": torch.ones(200, 200), f"{Q}.lokr_w2": torch.ones(200, 200)}
        assert box.cli("inspect", box.put("lora.safetensors", File(tensors).to_bytes())) == "right"


def test_many_modules(box):
    """10,000 modules, several times as many as any adapter has."""
    tensors = {f"{i:x}.diff": torch.ones(1) for i in range(10_000)}
    assert box.cli("inspect", box.put("lora.safetensors", File(tensors).to_bytes())) == "right"


@pytest.mark.parametrize("name", range(len(hostile.TEXTS)))
def test_names(name, box):
    """Paths, NUL, newlines, escapes, marks that turn the writing, 10,000 letters, HTML: in keys and values."""
    odd = hostile.TEXTS[name].encode("utf-8", "replace").decode()
    metadata = {"modelspec.trigger_phrase": odd, "ss_base_model_version": odd, odd or "x": odd}
    file = corpus.fitting()
    tensors = {**file.tensors, f"{odd}.lora_up.weight": torch.ones(4, 2), f"{odd}.lora_down.weight": torch.ones(2, 4)}
    lora = box.put("lora.safetensors", File({**tensors, odd + ".ZZ": torch.ones(1)}, metadata).to_bytes())
    if odd:
        assert box.cli("inspect", lora) == "right"
    assert box.cli("inspect", "--json", lora) in ("right", "refused")
    out, report = box.out / "x.safetensors", box.out / "r.md"
    box.cli("resize", "--rank", "1", "-o", out, "--report", report, lora, writes=(out, report))


DEEP = "[" * 100_000 + "]" * 100_000


TABLES = ["ss_tag_frequency", "ss_dataset_dirs", "lora_graft.history", "lora_adapter_metadata"]


@pytest.mark.parametrize("name", TABLES)
def test_deep_metadata(name, box):
    lora = box.put("lora.safetensors", File(corpus.fitting().tensors, {name: DEEP}).to_bytes())
    assert box.cli("inspect", lora) == "right"
    out = box.out / "x.safetensors"
    assert box.cli("resize", "--rank", "1", "-o", out, lora, writes=(out,)) == "right"


SLOW = ["(a+)+$", "(.*.*)*x", "(?:a|a)*b", "(", "a{1000}{1000}{1000}", "(a)\\1*", "x" * 2000 + "+"]


@pytest.mark.parametrize("pattern", SLOW)
def test_expressions_of_a_configuration(pattern, box):
    """alpha_pattern holds regular expressions; one made for it would be tried until the sun goes down."""
    key = "a" * 900
    tensors = {f"{key}.lora_A.weight": torch.ones(2, 4), f"{key}.lora_B.weight": torch.ones(4, 2)}
    box.put("adapter_config.json", json.dumps({"lora_alpha": 4, "r": 2, "alpha_pattern": {pattern: 3}}))
    assert box.cli("inspect", box.put("adapter_model.safetensors", File(tensors).to_bytes())) == "refused"


def test_names_in_a_configuration_still_tell_the_scale(box):
    import lora_graft

    tensors = {"unet.a.to_q.lora_A.weight": torch.ones(2, 4), "unet.a.to_q.lora_B.weight": torch.ones(4, 2)}
    lora = box.put("adapter_model.safetensors", File(tensors).to_bytes())
    patterns = {"to_q": 3, "a.to_q": 3, r"a\.to_q": 3, ".*q": 3, "to_v": 8, "o_q": 8, "to_[vq]": 3}
    for pattern, alpha in patterns.items():
        box.put("adapter_config.json", json.dumps({"lora_alpha": 8, "r": 2, "alpha_pattern": {pattern: alpha}}))
        (module,) = lora_graft.read(lora).modules.values()
        assert module.scale() == alpha / 2, pattern


def test_a_result_beyond_the_numbers_is_not_written(box):
    tensors = {UP: torch.full((24, 2), 1e30), DOWN: torch.full((2, 24), 1e30)}
    lora, out = box.put("lora.safetensors", File(tensors).to_bytes()), box.out / "x.safetensors"
    assert box.cli("merge", "--method", "svd", "--rank", "1", "-o", out, lora, f"{lora}:2", writes=(out,)) in (
        "refused",
        "right",
    )


def test_the_writer_keeps_every_kind_of_number(box):
    """An unknown key of a kind that torch can read must not stop the rest from being written."""
    data = containers.raw(torch.arange(4, dtype=torch.int32))
    good = File(corpus.adapters()["kohya"].tensors)
    good.tensors["ZZ"] = torch.arange(4, dtype=torch.int32)
    good.claims["ZZ"] = {"dtype": "U32"}
    lora, out = box.put("lora.safetensors", good.to_bytes()), box.out / "x.safetensors"
    assert box.cli("convert", "--layout", "same", "-o", out, lora, writes=(out,)) == "right"
    assert data in out.read_bytes()


def test_magnitudes_for_another_weight(box):
    """DoRA's magnitudes of a number that is neither the weight's rows nor its columns."""
    tensors = {UP: torch.ones(24, 2), DOWN: torch.ones(2, 24), f"{Q}.dora_scale": torch.ones(4, 24)}
    lora, out = box.put("lora.safetensors", File(tensors).to_bytes()), box.out / "x.safetensors"
    a, b = (box.put(f"{seed}.safetensors", corpus.checkpoint(seed).to_bytes()) for seed in (0, 1))
    words = ("transfer", lora, "--source", a, "--target", b, "--method", "copy", "-o", out)
    assert box.cli(*words, writes=(out,)) == "refused"
