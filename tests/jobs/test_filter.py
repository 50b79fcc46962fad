"""The layer filter of LoRA-X: what becomes of modules whose weights are less alike than the threshold asks."""

from __future__ import annotations

import json

import pytest
import torch
from lora_graft import adapters
from lora_graft.adapters.metadata import history
from lora_graft.bases import open_base
from lora_graft.errors import SettingsError
from lora_graft.jobs.transfer.report import Report
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from safetensors.torch import load_file, save_file

BLOCK = "joint_blocks.1"


@pytest.fixture(scope="module")
def mixed(family, tmp_path_factory):
    """Base B, whose second image block is that of the stranger S: Φ is about .9 around it and about .25 in it."""
    weights, strange = load_file(family.path("b")), load_file(family.path("s"))
    weights |= {key: strange[key] for key in weights if f"{BLOCK}.x_block" in key}
    path = tmp_path_factory.mktemp("mixed") / "mixed.safetensors"
    save_file(weights, path)
    return open_base(path)


def run(family, target, **settings):
    return transfer(family.adapter("frame_a"), family.base("a"), target, TransferSettings(**settings))


def by_decision(report):
    found = {}
    for line in report.modules:
        found.setdefault(line.decision, set()).add(line.block)
    return found


OTHERS = {"joint_blocks.0", "joint_blocks.2"}


@pytest.mark.parametrize(
    ("method", "below", "decisions"),
    [
        ("lora-x", "auto", {"lora-x": OTHERS, "left out": {BLOCK}}),
        ("lora-x", "leave-out", {"lora-x": OTHERS, "left out": {BLOCK}}),
        ("lora-x", "copy", {"lora-x": OTHERS, "copy": {BLOCK}}),
        ("prolora", "auto", {"prolora": OTHERS, "copy": {BLOCK}}),
        ("rotate", "leave-out", {"rotate": OTHERS, "left out": {BLOCK}}),
        ("copy", "auto", {"copy": {*OTHERS, BLOCK}}),
        ("copy", "leave-out", {"copy": OTHERS, "left out": {BLOCK}}),
        ("auto", "auto", {"copy": {*OTHERS, BLOCK}}),
        ("auto", "leave-out", {"copy": OTHERS, "left out": {BLOCK}}),
    ],
)
def test_what_becomes_of_modules_below_the_threshold(family, mixed, method, below, decisions):
    result = run(family, mixed, method=method, threshold=0.6, below_threshold=below)
    report, original = result.report, adapters.to_state_dict(family.adapter("frame_a"))
    assert by_decision(report) == decisions
    written = adapters.to_state_dict(result.adapter)
    strange = {key for key in original if "joint_blocks_1_" in key}
    if "left out" in decisions:
        assert not strange & written.keys()
        assert report.totals["left_out"] == 5 and report.totals["matched"] == 15
    else:
        assert all(torch.equal(written[key], original[key]) for key in strange)
        assert report.totals["left_out"] == 0
    for line in report.modules:
        if line.block == BLOCK and not (method in ("auto", "copy") and below == "auto"):
            assert "under the threshold 0.6" in line.reason and line.phi_left is not None and line.k == 48


def test_the_report_counts_what_was_left_out(family, mixed):
    result = run(family, mixed, method="copy", threshold=0.6, below_threshold="leave-out")
    report = result.report
    norms = {line.key: line.source_norm**2 for line in report.modules}
    left = sum(norm for key, norm in norms.items() if "_blocks_1_" in key) / sum(norms.values())
    assert report.totals["kept_energy"] == pytest.approx(1 - left, abs=1e-6)
    text = report.to_markdown()
    assert report.summary().startswith("10 of 15 modules were carried")
    assert "5 modules are left out" in text and f"all of {BLOCK} among them" in text and "5 left out" in text
    assert f"The threshold left out {100 * left:.0f} % of the update's energy" in report.advice_reason
    assert report.unmatched == [] and report.empty_blocks == []
    assert json.loads(report.to_json())["totals"]["left_out"] == 5
    assert Report.from_json(report.to_json()).to_markdown() == text


def test_the_copy_set_beside_a_filtered_method_is_a_whole_one(family, mixed):
    report = run(family, mixed, method="lora-x", threshold=0.6).report
    assert report.copy_baseline == {"kept_energy": 1.0, "norm_ratio": 1.0, "dropped": 0}


def test_threshold_and_choice_are_in_the_provenance_and_nothing_is_without_a_threshold(family, mixed, tmp_path):
    filtered = run(family, mixed, method="lora-x", threshold=0.6)
    path = adapters.write(filtered.adapter, tmp_path / "x.safetensors", provenance=filtered.provenance)
    settings = history(adapters.read(path).metadata)[0]["settings"]
    assert (settings["threshold"], settings["below_threshold"]) == (0.6, "leave-out")
    assert "below_threshold" not in run(family, mixed, method="copy").provenance["settings"]


def test_equal_weights_take_part_whatever_the_threshold(family):
    result = run(family, family.base("a"), method="lora-x", threshold=1.0)
    assert result.report.totals["left_out"] == 0 and len(result.adapter.modules) == 15


def test_a_threshold_that_nothing_reaches_is_an_error_that_says_how_far_it_is(family):
    with pytest.raises(SettingsError, match=r"leaves out everything.*15 modules.*mean Φ of 0\.\d\d") as caught:
        run(family, family.base("b"), method="lora-x", threshold=1.0)
    assert "Lower the threshold" in caught.value.hint and caught.value.key.startswith("lora_unet_joint_blocks_")
    assert caught.value.file == family.adapter("frame_a").file
    assert (
        len(run(family, family.base("b"), method="lora-x", threshold=1.0, below_threshold="copy").adapter.modules) == 15
    )


def test_an_unknown_choice_is_refused():
    with pytest.raises(SettingsError, match="drop") as caught:
        TransferSettings(threshold=0.5, below_threshold="drop")
    assert "leave-out" in caught.value.hint
