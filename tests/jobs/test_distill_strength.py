"""Matched strength: one number that makes a moved adapter act as the original did, or a warning that none does."""

from __future__ import annotations

import pytest
from lora_graft.adapters.metadata import history, with_provenance
from lora_graft.errors import SettingsError
from lora_graft.jobs.distill.noisy_latents import HELD_OUT
from lora_graft.jobs.distill.strength import MOST, Strength, match_strength


def matched(lab, target, lora="frame_a", share=1.0, **more):
    return match_strength(
        lab.teacher(lora),
        lab.model(target),
        lambda strength: lab.model(target, lora, strength=strength * share),
        lab.dataset(),
        batch=32,
        **more,
    )


def test_on_the_same_base_it_is_one(lab):
    found = matched(lab, "a")
    assert found.value == pytest.approx(1, abs=0.05) and found.residual < 0.05
    assert found.at_one < 1e-3
    assert "does on the target what the original does" in found.advice()


def test_a_weakened_adapter_gets_its_strength_back(lab):
    found = matched(lab, "a", share=0.5)
    assert found.value == pytest.approx(2, abs=0.1) and found.residual < 0.1
    assert found.at_one > 0.3


def test_on_a_relative(lab):
    found = matched(lab, "b")
    assert 0.7 < found.value < 2 and found.residual < 0.6 and found.residual <= found.at_one
    assert "Warning" not in found.to_markdown()


def test_on_a_stranger_it_warns(lab):
    found = matched(lab, "s")
    assert found.residual > 0.9
    assert found.advice().startswith("Warning") and "distil the adapter instead" in found.to_markdown()


def test_account_of_what_was_tried(lab):
    calls = []
    found = matched(lab, "b", progress=lambda done, total, label: calls.append((done, total)))
    strengths = [strength for strength, _ in found.tried]
    assert (0.0, 1.0) in found.tried and 1.0 in strengths and len(set(strengths)) == len(strengths)
    assert found.residual == min(residual for _, residual in found.tried)
    assert dict(found.tried)[found.value] == found.residual and found.value <= MOST
    tries = len(strengths) - 1  # strength 0 is known
    assert found.evaluations == (3 + tries) * (1 + HELD_OUT)
    assert all(done <= total for done, total in calls) and calls[-1] == (calls[-1][1],) * 2
    text = found.to_markdown()
    assert f"Strength {found.value:.2f} makes the LoRA act on family_b" in text and "as on family_a" in text


def test_latent_spaces_that_differ(lab):
    target = lab.model("b")
    target.space = "elsewhere"
    with pytest.raises(SettingsError, match="family_a has the latent space family, family_b elsewhere") as caught:
        match_strength(lab.teacher("frame_a"), target, None, lab.dataset())
    assert "samples" in caught.value.hint


def test_an_original_that_does_nothing(lab):
    with pytest.raises(SettingsError, match="changes nothing on the source"):
        match_strength(
            lab.teacher("frame_a", strength=0.0),
            lab.model("b"),
            lambda strength: lab.model("b"),
            lab.dataset(),
            batch=32,
        )


def test_the_step_joins_the_history_of_the_file(lab):
    moved, original = lab.family.adapter("slant_a"), lab.family.adapter("frame_a")
    before = with_provenance(moved.metadata, {"job": "transfer", "target": "b"}, changed=True)
    found = Strength(1.25, 0.3, 0.4, [(1.0, 0.4), (1.25, 0.3)], 64, "a", "b")
    after = with_provenance(before, found.provenance(moved, original), changed=True)
    first, second = history(after)
    assert first["job"] == "transfer" and second["job"] == after["lora_graft.job"] == "match_strength"
    assert (second["strength"], second["residual"], second["source"], second["target"]) == (1.25, 0.3, "a", "b")
    assert (second["adapter_sha256"], second["original_sha256"]) == (moved.digest, original.digest)
