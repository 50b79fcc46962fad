"""Reports claim only what was done: the copy beside other methods, modules left out, blocks that stay empty."""

from __future__ import annotations

import json

import pytest
from lora_graft import adapters
from lora_graft.adapters.metadata import history
from lora_graft.bases import open_base
from lora_graft.errors import AdapterError, WrongBaseError
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.text import in_ranges
from lora_graft.jobs.transfer.advice import relation
from lora_graft.jobs.transfer.report import ModuleReport, Report
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from safetensors.torch import load_file, save_file


def without_block(weights, number):
    """The weights without a joint block, those behind it moved up."""
    out = {}
    for key, value in weights.items():
        head, mark, rest = key.partition("joint_blocks.")
        index, _, tail = rest.partition(".")
        if mark and int(index) == number:
            continue
        out[f"{head}{mark}{int(index) - (int(index) > number)}.{tail}" if mark else key] = value
    return out


@pytest.fixture(scope="module")
def shallow(family, tmp_path_factory):
    """Base A without its second joint block, and the LoRA of A for it."""
    folder = tmp_path_factory.mktemp("shallow")
    save_file(without_block(load_file(family.path("a")), 1), folder / "shallow.safetensors")
    base = open_base(folder / "shallow.safetensors")
    return base, transfer(family.adapter("frame_a"), family.base("a"), base, TransferSettings("copy")).adapter


@pytest.mark.parametrize("method", ["lora-x", "prolora", "rotate"])
def test_the_copy_beside_another_method_is_a_real_one(family, method):
    """Base C has a pruned block: a copy loses it too."""
    beside = transfer(family.adapter("frame_a"), family.base("a"), family.base("c"), TransferSettings(method)).report
    alone = transfer(family.adapter("frame_a"), family.base("a"), family.base("c"), TransferSettings("copy")).report
    assert beside.copy_baseline["kept_energy"] == pytest.approx(alone.totals["kept_energy"])
    assert alone.totals["kept_energy"] < 0.99
    assert beside.copy_baseline["dropped"] == alone.totals["dropped"] == 5
    assert not any("all of it" in note or "100 %" in note for note in beside.notes)


def test_a_copy_onto_another_width_keeps_nothing(family, tmp_path):
    wide = {k: v.repeat(*[2] * v.ndim) if v.ndim == 2 else v for k, v in load_file(family.path("a")).items()}
    save_file(wide, tmp_path / "wide.safetensors")
    base = open_base(tmp_path / "wide.safetensors")
    report = transfer(family.adapter("frame_a"), family.base("a"), base, TransferSettings("lora-x")).report
    assert {line.decision for line in report.modules} == {"lora-x"}
    assert report.copy_baseline == {"kept_energy": 0.0, "norm_ratio": 0.0, "dropped": len(report.modules)}
    assert not any("plain copy" in note for note in report.notes)


def test_same_weights_do_not_hide_what_is_left_out(family, shallow):
    report = transfer(family.adapter("frame_a"), family.base("a"), shallow[0]).report
    assert report.totals["dropped"] == 5 and report.advice == "copy, then distil"
    text = report.summary()
    assert "adapter is written unchanged" not in text and "5 of 15 modules have no weight there" in text


def test_a_comparison_names_what_only_one_base_has():
    both = [ModuleReport("v", matched="v", drift=0.0)]
    assert relation(Report("compare", modules=both)) == "The two bases have the same weights."
    text = relation(Report("compare", modules=[*both, ModuleReport("w")], unmatched=["w"]))
    assert "1 have no counterpart" in text and "two bases have the same" not in text


def test_same_weights_with_another_strength_or_rank_are_not_unchanged(family):
    for settings in (TransferSettings(strength=0.5), TransferSettings(rank=2)):
        report = transfer(family.adapter("frame_a"), family.base("a"), family.base("a"), settings).report
        assert report.advice == "none" and "rank and strength that were asked for" in report.advice_reason


@pytest.mark.parametrize("method", ["auto", "rotate"])
def test_blocks_of_a_deeper_target_that_receive_nothing_are_named(family, shallow, method):
    base, lora = shallow
    report = transfer(lora, base, family.base("a"), TransferSettings(method)).report
    (empty,) = report.empty_blocks
    assert empty.startswith("joint_blocks.")
    assert not any(line.matched and f"{empty}." in line.matched for line in report.modules)
    for text in (report.summary(), report.to_markdown()):
        assert "1 block of " in text and f"receives nothing, because nothing of the adapter fits there: {empty}" in text
    assert json.loads(report.to_json())["empty_blocks"] == [empty]
    assert Report.from_json(report.to_json()).empty_blocks == [empty]
    assert report.advice == "copy" and "adapter is written unchanged" not in report.summary()


def test_blocks_that_the_adapter_leaves_alone_or_that_were_pruned_are_not_empty(family):
    whole = family.adapter("frame_a")
    some = whole.with_modules({k: m for k, m in whole.modules.items() if "joint_blocks_0_" in k})
    assert transfer(some, family.base("a"), family.base("b")).report.empty_blocks == []
    assert transfer(whole, family.base("a"), family.base("c")).report.empty_blocks == []


def test_runs_of_numbers_are_drawn_together():
    assert in_ranges(["a.1", "a.2", "a.3", "b.9", "b.11", "odd"]) == ["odd", "a.1 to 3", "b.9", "b.11"]


def test_the_result_is_not_the_source_file(family, tmp_path):
    original = family.adapter("frame_a")
    result = transfer(original, family.base("a"), family.base("b"))
    assert result.adapter.file is None and result.adapter.digest == ""
    state = adapters.to_state_dict(original)
    again = transfer(adapters.from_state_dict(state), family.base("a"), family.base("b"))
    assert again.provenance["adapter_sha256"] == result.provenance["adapter_sha256"] == original.digest
    assert again.provenance["adapter"] == result.provenance["adapter"] == "family_frame_a.safetensors"


def test_the_history_of_chained_work_stays_in_the_file(family, tmp_path):
    def saved(result, name):
        path = adapters.write(result.adapter, tmp_path / f"{name}.safetensors", provenance=result.provenance)
        return adapters.read(path)

    a, b, c = (family.base(letter) for letter in "abc")
    second = saved(transfer(family.adapter("frame_a"), a, b), "b")
    third = saved(transfer(second, b, c, TransferSettings("rotate")), "c")
    steps = history(third.metadata)
    assert [(s["job"], s["source"], s["target"]) for s in steps] == [
        ("transfer", a.label, b.label),
        ("transfer", b.label, c.label),
    ]
    assert steps[0]["adapter_sha256"] == family.adapter("frame_a").digest
    assert steps[1]["adapter_sha256"] == second.digest and third.metadata["lora_graft.adapter_sha256"] == second.digest

    merged = saved(merge([(third, 1.0, 1.0), (family.adapter("slant_a"), 0.5, 0.5)], MergeSettings("svd")), "merged")
    small = saved(resize(merged, ResizeSettings("rank", 2)), "small")
    last = history(small.metadata)
    assert [s["job"] for s in last] == ["merge", "resize"] and last[1]["adapter_sha256"] == merged.digest
    assert last[0]["loras"][0]["history"] == steps and "history" not in last[0]["loras"][1]
    assert small.metadata["lora_graft.job"] == "resize"
    assert "lora_graft.loras" not in small.metadata and "lora_graft.target" not in small.metadata


def test_a_file_from_before_the_history_begins_it_with_its_last_step():
    old = {"lora_graft.job": "merge", "lora_graft.loras": '[{"name": "x"}]', "lora_graft.source.sshs_model_hash": "ab"}
    assert history(old) == [{"job": "merge", "loras": [{"name": "x"}]}]
    assert history({"ss_network_dim": "4", "lora_graft.history": "broken"}) == []


def test_the_base_an_adapter_is_not_for_is_a_field_of_the_error(family):
    with pytest.raises(WrongBaseError) as caught:
        transfer(family.adapter("frame_a"), family.base("w"), family.base("a"))
    other = caught.value.at(hint="Leave it out.")
    assert isinstance(other, AdapterError) and (other.what, other.key) == (caught.value.what, caught.value.key)
    assert "Choose the base" in str(caught.value) and "Choose" not in str(other) and other.looks_like in str(other)
