"""The effort of a distillation, and that what is set by itself wins."""

from __future__ import annotations

import pytest
from lora_graft.choices import Budget, Effort
from lora_graft.errors import SettingsError
from lora_graft.jobs.distill.effort import planned, samples
from lora_graft.jobs.distill.schedule import Training


@pytest.mark.parametrize("effort", Effort.efforts)
def test_an_effort_is_its_figures(effort):
    plan = planned(effort)
    assert (plan.training.steps, plan.noisy_latents) == (Budget.steps[effort], Budget.noisy_latents[effort])
    assert plan.training.batch * plan.training.accumulation == Budget.at_once[effort]
    assert samples(effort) == Budget.samples[effort] and plan.effort == effort


def test_a_dearer_effort_is_no_smaller_in_anything():
    for table in (Budget.samples, Budget.noisy_latents, Budget.steps, Budget.at_once):
        assert list(table) == list(Effort.efforts) and sorted(table.values()) == list(table.values())


def test_what_a_workflow_from_before_says_means_what_it_meant():
    """All of it is set there, but for the noisy latents: then as many as the steps can use, at most 1024."""
    plan = planned(steps=100, batch=8, accumulation=4, learning_rate=0.0, schedule="cosine", seed=3)
    assert plan.training == Training(100, 0.0, "cosine", 8, 4, False, 3)
    assert plan.noisy_latents is None
    assert samples("normal", 64) == 64


def test_what_is_set_wins_alone():
    assert planned("quick", noisy_latents=40) == planned("quick", noisy_latents=40, batch=8)
    plan = planned("quick", noisy_latents=40, batch=2)
    assert (plan.training.steps, plan.training.accumulation, plan.noisy_latents) == (Budget.steps["quick"], 8, 40)
    assert plan.effort == "quick, but for what was set by itself (noisy latents)"
    steps = planned("quick", steps=7)
    assert steps.training.batch * steps.training.accumulation == 32 and steps.noisy_latents is None
    assert planned("thorough", batch=64).training.accumulation == 1


def test_another_effort_is_refused():
    for work in (planned, samples):
        with pytest.raises(SettingsError, match="unknown effort 'much'") as caught:
            work("much")
        assert "quick, normal, thorough" in caught.value.hint
