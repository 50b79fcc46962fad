"""The transfer job on really trained models: identities, choices, what is dropped and why, cancel, files."""

from __future__ import annotations

import pytest
import torch
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.jobs.cache import SubspaceCache
from lora_graft.jobs.transfer.compare import compare
from lora_graft.jobs.transfer.plan import counterparts
from lora_graft.jobs.transfer.report import Report
from lora_graft.jobs.transfer.slices import slices_of
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.spectral import SubspaceSize
from safetensors.torch import load_file, save_file

SUBSPACE_METHODS = ("lora-x", "prolora", "rotate")


def deltas(adapter):
    return {key: module.delta() for key, module in adapter.modules.items()}


def difference(a, b):
    """Largest relative difference of two adapters with the same modules."""
    one, other = deltas(a), deltas(b)
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).norm() / one[k].norm()) for k in one)


@pytest.mark.parametrize("method", ["auto", "copy", *SUBSPACE_METHODS])
def test_same_base_gives_the_very_same_tensors_and_says_so(family, method):
    original = family.adapter("frame_a")
    result = transfer(original, family.base("a"), family.base("a"), TransferSettings(method=method))
    before, after = adapters.to_state_dict(original), adapters.to_state_dict(result.adapter)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert result.report.advice == "none"
    assert "same weights" in result.report.summary()


def test_rotate_on_a_base_that_differs_by_rounding_is_the_identity(family, tmp_path):
    weights = load_file(family.path("a"))
    name = next(n for n in weights if n.endswith("joint_blocks.0.x_block.attn.qkv.weight"))
    for key in weights:
        if weights[key].ndim == 2:
            weights[key] = weights[key].float() * (1 + 1e-7)
    assert weights[name].dtype == torch.float32
    save_file(weights, tmp_path / "almost.safetensors")
    original = family.adapter("frame_a")
    fp32 = adapters.from_state_dict({k: v.float() for k, v in adapters.to_state_dict(original).items()})
    almost = open_base(tmp_path / "almost.safetensors")
    result = transfer(fp32, family.base("a"), almost, TransferSettings(method="rotate"))
    assert {line.decision for line in result.report.modules} == {"rotate"}
    assert difference(fp32, result.adapter) < 1e-5
    assert all(line.phi_left == pytest.approx(1, abs=1e-5) for line in result.report.modules)


def test_rotate_keeps_every_norm_and_lora_x_is_idempotent(family):
    source, target, original = family.base("a"), family.base("b"), family.adapter("slant_a")
    turned = transfer(original, source, target, TransferSettings(method="rotate"))
    assert all(line.norm_ratio == pytest.approx(1, abs=1e-4) for line in turned.report.modules)
    once = transfer(original, source, target, TransferSettings(method="lora-x")).adapter
    twice = transfer(once, source, target, TransferSettings(method="lora-x")).adapter
    assert difference(once, twice) < 3e-3  # fp16 files
    assert difference(original, once) > 0.5  # and it really projects


def test_auto_takes_copy_for_an_ordinary_lora_between_relatives(family):
    result = transfer(family.adapter("frame_a"), family.base("a"), family.base("b"))
    assert result.report.method == "copy" and result.report.advice == "copy"
    assert difference(family.adapter("frame_a"), result.adapter) == 0
    assert 0.8 < result.report.totals["mean_similarity"] < 1


def test_auto_takes_lora_x_for_an_adapter_inside_its_bases_subspace(family):
    result = transfer(family.adapter("frame_lorax_a"), family.base("a"), family.base("b"))
    assert result.report.method == "lora-x" and result.report.advice == "transfer"
    assert result.report.totals["kept_energy"] > 0.7
    ordinary = transfer(family.adapter("frame_a"), family.base("a"), family.base("b"), TransferSettings("lora-x"))
    assert ordinary.report.totals["kept_energy"] < 0.2
    assert any("ordinary LoRA" in note for note in ordinary.report.notes)


def test_a_lora_x_adapter_is_unchanged_by_projection_onto_its_own_base(family, tmp_path):
    """Exact on an in-subspace update, seen through the job: the target is the source plus rounding."""
    weights = {k: v.float() * (1 + 1e-7) if v.ndim == 2 else v for k, v in load_file(family.path("a")).items()}
    save_file(weights, tmp_path / "almost.safetensors")
    original = family.adapter("frame_lorax_a")
    result = transfer(original, family.base("a"), open_base(tmp_path / "almost.safetensors"))
    assert result.report.method == "lora-x"
    assert difference(original, result.adapter) < 2e-3  # fp16 file


@pytest.mark.parametrize("method", ["auto", "copy", "rotate"])
def test_strangers_are_called_strangers(family, method):
    report = transfer(family.adapter("frame_a"), family.base("a"), family.base("s"), TransferSettings(method)).report
    assert report.advice == "distil"
    assert report.summary().startswith("These bases are strangers")


@pytest.mark.parametrize("method", ["copy", "rotate", "lora-x"])
def test_modules_of_a_pruned_block_are_left_out_and_said(family, method):
    result = transfer(family.adapter("frame_a"), family.base("a"), family.base("c"), TransferSettings(method))
    dropped = [line for line in result.report.modules if line.decision == "dropped"]
    assert len(dropped) == 5 and {line.block for line in dropped} == {"joint_blocks.1"}
    assert all("pruned" in line.reason for line in dropped)
    assert len(result.adapter.modules) == 10
    if method == "copy":  # a third of the modules and about half of the energy
        assert result.report.advice == "copy, then distil" and "5 of 15 modules, with" in result.report.advice_reason
    norms = {line.key: line.source_norm**2 for line in result.report.modules}
    lost = sum(norms[line.key] for line in dropped) / sum(norms.values())
    kept = result.report.totals["kept_energy"]
    assert kept < 1 - lost + 1e-6 and (method == "lora-x" or kept == pytest.approx(1 - lost, abs=1e-6))
    assert not any("joint_blocks_1_" in key for key in result.adapter.modules)


def test_a_removed_block_shifts_the_ones_behind_it(family, tmp_path):
    """Base C without its empty block: the third block of A feeds the second of C."""
    weights = {k: v for k, v in load_file(family.path("c")).items() if "joint_blocks.1." not in k}
    weights = {k.replace("joint_blocks.2.", "joint_blocks.1."): v for k, v in weights.items()}
    save_file(weights, tmp_path / "compact.safetensors")
    compact = open_base(tmp_path / "compact.safetensors")
    result = transfer(family.adapter("frame_a"), family.base("a"), compact, TransferSettings("copy"))
    moved = {line.block: line.matched for line in result.report.modules if line.role == "x_block.mlp.fc1"}
    assert "joint_blocks.0." in moved["joint_blocks.0"]
    assert moved["joint_blocks.1"] is None
    assert "joint_blocks.1." in moved["joint_blocks.2"]
    written = deltas(result.adapter)["lora_unet_joint_blocks_1_x_block_mlp_fc1"]
    assert torch.equal(written, deltas(family.adapter("frame_a"))["lora_unet_joint_blocks_2_x_block_mlp_fc1"])


def test_fused_weights_are_compared_slice_by_slice(family):
    base = family.base("a")
    weight_slice = base.names.resolve("lora_unet_joint_blocks_0_x_block_attn_qkv")
    assert [part.rows for part in slices_of(base, weight_slice)] == [(0, 192), (192, 192), (384, 192)]
    result = transfer(family.adapter("frame_a"), base, family.base("b"), TransferSettings("rotate"))
    line = next(m for m in result.report.modules if m.role == "x_block.attn.qkv")
    assert line.k == 48 and line.rank_out <= 24


def test_threshold_leaves_dissimilar_weights_to_copying(family):
    settings = TransferSettings("rotate", threshold=1.0)
    report = transfer(family.adapter("frame_a"), family.base("a"), family.base("b"), settings).report
    assert {line.decision for line in report.modules} == {"copy"}
    assert all("threshold" in line.reason for line in report.modules)


def test_rank_is_cut_with_its_error_and_strength_multiplies(family):
    original = family.adapter("frame_a")
    settings = TransferSettings("copy", rank=2, strength=0.5)
    result = transfer(original, family.base("a"), family.base("b"), settings)
    assert {module.rank for module in result.adapter.modules.values()} == {2}
    for line in result.report.modules:
        module = original.modules[line.key]
        values = torch.linalg.svdvals(module.delta().double())
        expected = float((values[2:].square().sum() / values.square().sum()).sqrt())
        assert line.truncation_error == pytest.approx(expected, rel=1e-3)
        moved = result.adapter.modules[line.key].delta()
        assert float(moved.norm()) == pytest.approx(0.5 * float(values[:2].norm()), rel=2e-3)


def test_the_cache_changes_nothing_but_the_time(family, tmp_path):
    cache, asked = SubspaceCache(tmp_path), TransferSettings("prolora")
    run = [
        transfer(family.adapter("frame_a"), family.base("a"), family.base("b"), asked, cache=c).adapter
        for c in (None, cache, cache)
    ]
    assert cache.hits == cache.misses > 0
    states = [adapters.to_state_dict(adapter) for adapter in run]
    assert all(torch.equal(states[0][k], s[k]) for s in states for k in states[0])


def test_cancel_stops_at_the_module_at_hand(family):
    seen = []

    def stop(done, total, label):
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(family.adapter("frame_a"), family.base("a"), family.base("b"), progress=stop)
    assert seen == [0, 1, 2, 3]


def test_unknown_keys_and_foreign_modules_travel_along(family):
    state = dict(adapters.to_state_dict(family.adapter("frame_a")))
    state["what.is.this"] = torch.arange(3.0)
    state["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.randn(8, 2)
    state["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.randn(2, 4)
    result = transfer(adapters.from_state_dict(state), family.base("a"), family.base("b"))
    written = adapters.to_state_dict(result.adapter)
    assert all(torch.equal(written[key], value) for key, value in state.items())
    assert result.report.extras == ["what.is.this"]
    assert any("travel unchanged" in note for note in result.report.notes)


def test_an_adapter_of_another_architecture_is_refused_by_name(family):
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {f"{key}.lora_up.weight": torch.randn(320, 4), f"{key}.lora_down.weight": torch.randn(4, 768)}
    with pytest.raises(AdapterError, match="SD 1.5") as error:
        transfer(adapters.from_state_dict(state, file="style.safetensors"), family.base("a"), family.base("b"))
    assert "style.safetensors" in str(error.value) and key in str(error.value)


def test_shapes_that_do_not_fit_the_source_are_refused_with_the_key(family):
    key = "lora_unet_joint_blocks_0_x_block_mlp_fc1"
    state = {f"{key}.lora_up.weight": torch.randn(512, 4), f"{key}.lora_down.weight": torch.randn(4, 128)}
    with pytest.raises(AdapterError, match="512×128.*768×192"):
        transfer(adapters.from_state_dict(state), family.base("a"), family.base("b"))


@pytest.mark.parametrize("wrong", [{"method": "magic"}, {"rank": 0}, {"threshold": 1.5}])
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingsError):
        TransferSettings(**wrong)


def test_report_survives_json(family):
    report = transfer(family.adapter("frame_a"), family.base("a"), family.base("b")).report
    assert Report.from_json(report.to_json()).to_markdown() == report.to_markdown()


def test_compare_finds_a_base_like_itself_a_relative_and_a_stranger(family):
    size = SubspaceSize(share=0.25)
    found = {other: compare(family.base("a"), family.base(other), size) for other in "abs"}
    similarity = {other: report.totals["mean_similarity"] for other, report in found.items()}
    assert similarity["a"] == pytest.approx(1, abs=1e-5)
    assert 0.8 < similarity["b"] < 0.99 and abs(similarity["s"]) < 0.1
    assert [found[o].advice for o in "abs"] == ["copy", "copy", "distil"]


def test_compare_can_keep_to_the_adapters_modules(family):
    report = compare(family.base("a"), family.base("b"), adapter=family.adapter("frame_a"))
    assert len(report.modules) == 15


def test_same_names_match_by_name_at_any_width(family):
    names = [n for n, shape in family.base("a").weights().items() if len(shape) > 1]
    assert counterparts(family.base("a"), family.base("b"), names) == {n: n for n in names}
