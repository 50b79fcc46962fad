"""Many LoRAs to one base: what is asked of the bases beforehand is what the transfers ask for; outcomes by file."""

from __future__ import annotations

import pytest
import torch
from lora_graft import adapters
from lora_graft.errors import BaseModelError, GraftError
from lora_graft.io.atomic import unfinished
from lora_graft.jobs.transfer import pairs as pairs_module
from lora_graft.jobs.transfer.many import Job, Outcome, Worker, find_files, transfer_many
from lora_graft.jobs.transfer.pairs import Pairs
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.spectral import SubspaceSize
from safetensors.torch import load_file, save_file

LORAS = ("frame_a", "slant_a", "frame_lorax_a")


@pytest.fixture
def work(family, tmp_path):
    """A worker for a target, a method and a size; and input → output of three LoRAs."""
    files = {family.path(name): tmp_path / "out" / f"{name}.safetensors" for name in LORAS}

    def worker(target, method, size=None, **more):
        settings = TransferSettings(method, size or SubspaceSize(share=0.25), **more)
        target = target if hasattr(target, "suffix") else family.path(target)
        return Worker(Job(family.path("a"), target, settings, cache=tmp_path / "cache"))

    return worker, files


@pytest.fixture
def asked(monkeypatch):
    """Every pair of weight slices whose subspaces somebody asks for, with the size."""
    seen = []
    pair = Pairs.pair
    monkeypatch.setattr(Pairs, "pair", lambda self, *weights: seen.append((weights, self.size)) or pair(self, *weights))
    return seen


@pytest.mark.parametrize("method", ["auto", "copy", "lora-x", "prolora", "rotate"])
@pytest.mark.parametrize("target", ["a", "b", "c", "without a block"])
def test_what_is_measured_is_exactly_what_the_transfers_ask_for(family, work, asked, tmp_path, target, method):
    """Fused weights slice by slice, equal and pruned weights, blocks that move up (their probes are asked twice)."""
    if target == "without a block":
        weights = {k: v for k, v in load_file(family.path("c")).items() if "joint_blocks.1." not in k}
        target = tmp_path / "compact.safetensors"
        save_file({k.replace("joint_blocks.2.", "joint_blocks.1."): v for k, v in weights.items()}, target)
    worker = work[0](target, method)
    files = {file: output for file, output in work[1].items() if "lorax" not in file.name}
    for weights in {weights for file in files for weights in worker.weights_of(file)}:
        worker.measure(weights)
    before = set(asked)
    asked.clear()
    for file, output in files.items():
        assert worker.transfer(file, output).status == "transferred"
    assert set(asked) == before
    assert bool(before) == (method != "copy" and target != "a" or target not in ("a", "b", "c"))


def test_a_filter_of_copies_and_filled_blocks_are_measured_too(family, work, asked, tmp_path):
    """The first block of A is gone from the source, so that it fills nothing of its own in A; Φ is asked for copies."""
    weights = {k: v for k, v in load_file(family.path("a")).items() if "joint_blocks.0." not in k}
    for number in (1, 2):
        weights = {k.replace(f"joint_blocks.{number}.", f"joint_blocks.{number - 1}."): v for k, v in weights.items()}
    save_file(weights, tmp_path / "shallow.safetensors")
    lora = {k: v for k, v in load_file(family.path("frame_a")).items() if "joint_blocks_2_" not in k}
    save_file(lora, tmp_path / "lora.safetensors")
    more = {"threshold": 0.2, "below_threshold": "leave-out", "fill": "nearest"}
    settings = TransferSettings("copy", SubspaceSize(share=0.25), **more)
    job = Job(tmp_path / "shallow.safetensors", family.path("b"), settings, cache=tmp_path / "cache")
    worker = Worker(job)
    needed = worker.weights_of(tmp_path / "lora.safetensors")
    for one in needed:
        worker.measure(one)
    before = set(asked)
    asked.clear()
    done = worker.transfer(tmp_path / "lora.safetensors", tmp_path / "out" / "lora.safetensors")
    assert done.status == "transferred" and done.left_out == 0 and done.empty_blocks == 0
    assert set(asked) == before and len(needed) == 15, "two blocks that are fed, one that is filled"


def test_each_weight_is_measured_once(work, monkeypatch):
    """After the measuring, transfers ask the cache for nothing it has not; a LoRA-X adapter too, of its slices."""
    worker, files = work[0]("b", "lora-x", SubspaceSize(k=6)), work[1]
    counted = []
    subspace = pairs_module.subspace
    monkeypatch.setattr(pairs_module, "subspace", lambda *a, **k: counted.append(1) or subspace(*a, **k))
    needed = {weights for file in files for weights in worker.weights_of(file)}
    for weights in needed:
        worker.measure(weights)
    measured = len(counted)
    assert measured > 2 * len(needed) > 0, "fused weights have three subspaces in each base"
    for file, output in files.items():
        worker.transfer(file, output)
    assert len(counted) == measured


def test_copies_read_the_bases_for_the_first_lora_only(work, family, monkeypatch):
    """How far two weights lie apart, and whether one is empty, is remembered; the report says the same."""
    worker, files = work[0]("c", "copy"), list(work[1].items())
    read = []
    load = pairs_module.load_weight_slice
    monkeypatch.setattr(pairs_module, "load_weight_slice", lambda *given: read.append(given) or load(*given))
    worker.transfer(*files[0])
    assert read
    read.clear()
    worker.transfer(*files[1])
    assert read == []
    alone = transfer(family.adapter("slant_a"), family.base("a"), family.base("c"), worker.job.settings)
    again = transfer(family.adapter("slant_a"), worker.source, worker.target, worker.job.settings, cache=worker.cache)
    assert [line.drift for line in again.report.modules] == [line.drift for line in alone.report.modules]
    assert len({line.drift for line in alone.report.modules}) > 3


def test_vectors_and_values_that_are_set_are_not_measured(family, work, tmp_path):
    state = dict(adapters.to_state_dict(family.adapter("frame_a")))
    (key,) = [k.removesuffix(".lora_up.weight") for k in state if k.endswith("blocks_0_x_block_mlp_fc1.lora_up.weight")]
    weight = family.base("a").names.resolve(key).name
    shape = family.base("a").weights()[weight]
    for suffix in (".lora_up.weight", ".lora_down.weight", ".alpha"):
        state.pop(key + suffix, None)
    save_file(state | {f"{key}.set_weight": torch.zeros(shape)}, tmp_path / "set.safetensors")
    worker = work[0]("b", "rotate")
    assert adapters.read(tmp_path / "set.safetensors").modules[key].kind == "set"
    plain, some = (worker.weights_of(path) for path in (family.path("frame_a"), tmp_path / "set.safetensors"))
    assert {ours.name for ours, _ in plain - some} == {weight} and some < plain


def test_outcomes_by_file(family, tmp_path):
    """One is there already, one is broken, one is done; its figures are the report's; phases tell how far it is."""
    good, broken = family.path("frame_a"), tmp_path / "broken.safetensors"
    broken.write_bytes(good.read_bytes()[:3000])
    there = family.path("slant_a")
    out = tmp_path / "out"
    files = {broken: out / "b.safetensors", there: out / "c.safetensors", good: out / "sub" / "a.safetensors"}
    out.mkdir()
    (out / "c.safetensors").write_bytes(b"mine")
    job = Job(family.path("a"), family.path("b"), TransferSettings("lora-x"), dtype="fp32", report=".json")
    steps = []
    done = transfer_many(files, job, processes=1, keep_cache=False, progress=lambda *step: steps.append(step))
    assert [(o.file, o.output, o.status) for o in done] == [
        (broken, files[broken], "failed"),
        (there, files[there], "present"),
        (good, files[good], "transferred"),
    ]
    assert "truncated" in done[0].error.lower() or str(broken) in done[0].error
    assert done[1] == Outcome(there, files[there], "present") and (out / "c.safetensors").read_bytes() == b"mine"
    assert done[2].method == "lora-x" and 0 < done[2].kept_energy < 0.3 and done[2].similarity > 0.8
    assert done[2].advice == "copy" and done[2].empty_blocks == 0
    written = adapters.read(files[good])
    assert {t.dtype for m in written.modules.values() for t in m.tensors.values()} == {torch.float32}
    assert files[good].with_suffix(".json").is_file() and written.metadata["lora_graft.job"] == "transfer"
    phases = list(dict.fromkeys(phase for phase, *_ in steps))
    assert phases == ["Reading", "Measuring the bases", "Transferring"]
    assert ("Transferring", 1, 1, good.name) in steps


def test_what_a_killed_process_left_half_written_goes_at_the_end(family, tmp_path):
    """It dies after those that live have looked for leftovers; what somebody still writes stays."""
    files = {family.path(name): tmp_path / "out" / f"{name}.safetensors" for name in LORAS[:2]}
    torn = tmp_path / "out" / ".slant_a.safetensors.0123456789ab.part"
    torn.parent.mkdir()
    with unfinished(tmp_path / "out" / "other") as (_, written):
        job = Job(family.path("a"), family.path("b"), TransferSettings("copy"))
        done = transfer_many(files, job, processes=1, keep_cache=False, each=lambda outcome: torn.write_bytes(b"half"))
        assert [outcome.status for outcome in done] == ["transferred"] * 2
        assert written.exists() and not torn.exists()


def test_a_base_that_cannot_be_opened_is_an_error_before_any_work(family, tmp_path):
    job = Job(family.path("a"), tmp_path / "none.safetensors")
    with pytest.raises(BaseModelError, match="does not exist"):
        transfer_many({family.path("frame_a"): tmp_path / "x.safetensors"}, job, processes=1)


def test_input_and_output_of_patterns(tmp_path):
    for name in ("a/x.safetensors", "a/b/x.safetensors", "c/x.safetensors", "a/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    at = tmp_path.joinpath
    assert find_files([str(at("a/*"))], at("out")) == {at("a/x.safetensors"): at("out/x.safetensors")}
    assert find_files([str(at("a/**/*"))], at("out")) == {
        at("a/x.safetensors"): at("out/x.safetensors"),
        at("a/b/x.safetensors"): at("out/b/x.safetensors"),
    }
    assert find_files([str(at("a/**/*"))], at("a/b")) == {at("a/x.safetensors"): at("a/b/x.safetensors")}
    assert find_files([str(at("a/*"))], tmp_path) == {at("a/x.safetensors"): at("x.safetensors")}
    assert find_files([str(at("c/x.safetensors"))], at("out")) == {at("c/x.safetensors"): at("out/x.safetensors")}
    (at("p/old.v1")).mkdir(parents=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        at("p/old.v1", name).touch()
    assert find_files([str(at("p/*"))], at("out")) == {at("p/old.v1"): at("out/old.v1")}
    assert find_files([str(at("p/**/*"))], at("out")) == {at("p/old.v1"): at("out/old.v1")}
    assert find_files([str(at("p/*/*"))], at("out")) == {
        at("p/old.v1/adapter_model.safetensors"): at("out/old.v1/adapter_model.safetensors")
    }
    for patterns, out, message in (
        ([str(at("a/*"))], at("a"), "overwrite the inputs"),
        ([str(at("a/*")), str(at("c/*"))], at("out"), "overwrite or meet"),
        ([str(at("a/none*"))], at("out"), "matches no .safetensors file and no PEFT folder"),
        ([str(at("a/*"))], at("a/note.txt"), "this is a file"),
    ):
        with pytest.raises(GraftError, match=message):
            find_files(patterns, out)
