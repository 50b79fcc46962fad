"""Targets of another depth: published maps before the search, blocks that nothing feeds, and what the report says."""

from __future__ import annotations

import json

import pytest
import torch
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.errors import SettingsError
from lora_graft.family import materialize, model
from lora_graft.jobs.transfer.plan import counterparts, lay_out
from lora_graft.jobs.transfer.report import Report
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.names import DENOISER, names_for
from lora_graft.names.known import _SD, _UNet, _unet
from safetensors.torch import save_file

WIDTHS, TEXT = (320, 640, 1280, 1280), {"context": 768, "linear": False}
PARENT = _UNet(WIDTHS, **_SD, **TEXT)
SMALL = _UNet(WIDTHS, (1, 1, 1, 0), None, (0, 0, 1, 1, 1, 1, 1, 1), **TEXT)
TINY = _UNet(WIDTHS[:3], (1, 1, 1), None, (1,) * 6, **TEXT)
ROLE = "1.transformer_blocks.0.attn1.to_q.weight"


class Shapes:
    """A base of names and shapes alone; nothing of it is ever read where no search asks for similarities."""

    architecture = "SD 1.5"
    fingerprint = ""

    def __init__(self, label, size):
        self.label, self._weights = label, {DENOISER + name: shape for name, shape in _unet(size).items()}
        self.names = names_for(self._weights)

    def weights(self):
        return self._weights


def name_of(block):
    return f"{DENOISER}{block}.{ROLE}"


def lora_of(*blocks):
    """A LoRA that changes to_q of some blocks' attention."""
    state = {}
    for block in blocks:
        key = f"lora_unet_{block}_{ROLE}".removesuffix(".weight").replace(".", "_")
        width = _unet(PARENT)[f"{block}.{ROLE}"][0]
        state |= {f"{key}.lora_up.weight": torch.ones(width, 2), f"{key}.lora_down.weight": torch.ones(2, width)}
    return adapters.from_state_dict(state)


def misleading(ours, theirs):
    """A similarity that sends the parent's second block of a level everywhere, as no published map does."""
    return float(ours.block.startswith(("input_blocks.2", "input_blocks.5", "output_blocks.4", "output_blocks.10")))


def test_a_published_map_goes_before_a_search_that_disagrees():
    parent, child = Shapes("sd15", PARENT), Shapes("small", SMALL)
    lora = lora_of("input_blocks.1", "input_blocks.2", "output_blocks.9", "output_blocks.10", "output_blocks.11")

    def fed(**how):
        plan = lay_out(lora, parent, child, misleading, **how)
        return plan, {s.source.name: s.target and s.target.name for s in plan.steps}

    plan, mapped = fed()
    assert plan.pruning_map.name == "BK-SDM-Small" and not plan.searched
    assert mapped == {
        name_of("input_blocks.1"): name_of("input_blocks.1"),
        name_of("input_blocks.2"): None,
        name_of("output_blocks.9"): name_of("output_blocks.6"),
        name_of("output_blocks.10"): None,
        name_of("output_blocks.11"): name_of("output_blocks.7"),
    }
    assert plan.unfed == set(), "a pruned child has nothing that its parent lacks"
    plan, searched = fed(published=False)
    assert plan.pruning_map is None and plan.searched
    assert searched[name_of("input_blocks.2")] == name_of("input_blocks.1") and searched != mapped


def test_a_published_map_and_the_search_agree_where_shapes_decide():
    """From level 1 down every block of a level has other widths: both find the same."""
    parent, child = Shapes("sd15", PARENT), Shapes("tiny", TINY)
    lora = lora_of("output_blocks.3", "output_blocks.5", "output_blocks.8")
    found = [
        {s.source.name: s.target and s.target.name for s in lay_out(lora, parent, child, published=published).steps}
        for published in (True, False)
    ]
    assert (
        found[0]
        == found[1]
        == {
            name_of("output_blocks.3"): name_of("output_blocks.0"),
            name_of("output_blocks.5"): name_of("output_blocks.1"),
            name_of("output_blocks.8"): name_of("output_blocks.3"),
        }
    )


def test_comparing_bases_takes_the_published_map_too():
    parent, child = Shapes("sd15", PARENT), Shapes("tiny", TINY)
    pairs = counterparts(parent, child, list(parent.weights()))
    assert pairs[name_of("output_blocks.11")] == name_of("output_blocks.5")
    assert pairs[f"{DENOISER}out.2.weight"] == f"{DENOISER}out.2.weight"
    assert {name for name in pairs.values() if name} == set(child.weights())


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Base A with its second block twice, the copy a little off."""
    weights = model.repeat(materialize.base("a"), 1)
    dice = torch.Generator().manual_seed(3)
    for name, weight in weights.items():
        if "joint_blocks.2.x_block" in name and weight.dim() == 2:
            weights[name] = weight + 0.1 * weight.std() * torch.randn(weight.shape, generator=dice)
    path = tmp_path_factory.mktemp("deep") / "deep.safetensors"
    save_file({materialize.PREFIX + name: weight.clone() for name, weight in weights.items()}, path)
    return open_base(path)


@pytest.mark.parametrize("method", ["copy", "lora-x"])
def test_a_block_that_nothing_feeds_takes_the_update_of_the_most_similar(family, deep, method):
    original = family.adapter("frame_a")
    plain, filled = (
        transfer(original, family.base("a"), deep, TransferSettings(method, fill=fill)) for fill in ("none", "nearest")
    )
    assert plain.report.filled_blocks == {} and plain.report.empty_blocks == ["joint_blocks.2"]
    report = filled.report
    assert report.filled_blocks == {"joint_blocks.2": "joint_blocks.1"} and report.empty_blocks == []
    before, after = adapters.to_state_dict(plain.adapter), adapters.to_state_dict(filled.adapter)
    assert before.keys() < after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    more = after.keys() - before.keys()
    assert more and all("joint_blocks_2_" in key for key in more)
    if method == "copy":
        state = adapters.to_state_dict(original)
        assert all(torch.equal(after[key], state[key.replace("blocks_2_", "blocks_1_")]) for key in more)
    assert report.totals["modules"] == 15 and len(report.modules) == 20
    assert report.totals["kept_energy"] == pytest.approx(plain.report.totals["kept_energy"])
    text = report.to_markdown()
    assert "joint_blocks.2 that of joint_blocks.1" in text and "joint_blocks.2 (filled)" in text
    assert "joint\\_blocks.2 has no block of its own" in text or "joint_blocks.2 has no block of its own" in text
    assert json.loads(report.to_json())["filled_blocks"] == report.filled_blocks
    assert Report.from_json(report.to_json()).to_markdown() == text


def test_filled_blocks_are_held_against_the_threshold_like_others(family, deep):
    """Only the filled block differs from A: at .999 it alone is left out again."""
    settings = TransferSettings("copy", fill="nearest", threshold=0.999, below_threshold="leave-out")
    result = transfer(family.adapter("frame_a"), family.base("a"), deep, settings)
    assert not any("joint_blocks_2_" in key for key in result.adapter.modules)
    assert len(result.adapter.modules) == 15


def test_where_nothing_is_unfed_filling_changes_nothing(family):
    for target in ("b", "c"):
        states = [
            adapters.to_state_dict(
                transfer(
                    family.adapter("frame_a"), family.base("a"), family.base(target), TransferSettings(fill=f)
                ).adapter
            )
            for f in ("none", "nearest")
        ]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_report_says_what_paired_the_blocks(family, deep):
    searched = transfer(family.adapter("frame_a"), family.base("a"), deep, TransferSettings("copy")).report
    assert searched.block_map == "search" and any("by similarity and order" in note for note in searched.notes)
    same = transfer(family.adapter("frame_a"), family.base("a"), family.base("b"), TransferSettings("copy")).report
    assert same.block_map == "" and not any("Blocks feed" in note for note in same.notes)


@pytest.mark.parametrize("wrong", [{"fill": "all"}, {"match_blocks": "guess"}])
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(SettingsError, match="|".join(wrong)):
        TransferSettings(**wrong)
