"""The table of fields against choices.py and what the jobs' settings are called."""

from __future__ import annotations

from dataclasses import fields

import pytest
from lora_graft import choices
from lora_graft.errors import SettingsError
from lora_graft.jobs.distill.distill import Distillation
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.merge.merge import MergeSettings
from lora_graft.jobs.merge.resize import ResizeSettings
from lora_graft.jobs.transfer.transfer import TransferSettings
from lora_graft.webui.check import checked
from lora_graft.webui.fields import FIXED, JOBS, SAME

PAGES = {
    "transfer": (choices.Transfer, choices.Subspace, choices.File, choices.Work),
    "merge": (choices.Merge, choices.File, choices.Work),
    "resize": (choices.Resize, choices.File),
    "similarity": (choices.Subspace, choices.Work),
    "convert": (choices.File,),
    "inspect": (choices.Inspect,),
    "shelf": (choices.Transfer, choices.Subspace, choices.File, choices.Work),
    "distill": (choices.Distill, choices.Effort, choices.Pipelines, choices.Dataset, choices.File, choices.Work),
}
LISTS = {
    "method": "methods",
    "below_threshold": "filters",
    "match_blocks": "matchings",
    "fill": "fills",
    "subspace": "subspaces",
    "layout": "layouts",
    "dtype": "dtypes",
    "device": "devices",
    "rank": "ranks",
    "units": "unit_forms",
    "rule": "rules",
    "start_from": "starts",
    "kind": "kinds",
    "objective": "objectives",
    "modules": "module_sets",
    "schedule": "schedules",
    "effort": "efforts",
    "precision": "precisions",
}
OURS = {"output", "lora", "loras", "source", "target", "base", "shelf", "folder", "prompts", "seeds", "width", "height"}
OURS |= {"source_parts", "target_parts"}
GIVEN = {"lora": "a", "loras": "<lora:a>", "source": "b", "target": "c"}


def page_of(kind: str, name: str) -> type:
    """The class of choices.py that a field of a job belongs to: the first that has it."""
    return next(page for page in PAGES[kind] if hasattr(page, name))


@pytest.mark.parametrize("kind", JOBS)
def test_defaults_and_lists_are_those_of_choices(kind):
    for field in JOBS[kind]:
        if field.name in OURS:
            continue
        page = choices.File if field.name == "dtype" else page_of(kind, field.name)
        default = getattr(page, field.name)
        assert field.default == (SAME if field.name == "dtype" else default), field.name
        if field.kind == "choice":
            more = {"auto", SAME, FIXED}
            assert set(field.choices) - more == set(getattr(page, LISTS[field.name])) - more, field.name
            assert field.default in field.choices


@pytest.mark.parametrize("kind", JOBS)
def test_every_field_has_a_label_of_its_own(kind):
    labels = [field.label for field in JOBS[kind]]
    assert all(labels) and len(set(labels)) == len(labels)


def test_no_setting_of_a_job_is_forgotten():
    missing = {"size", "dtype", "most", "where", "training", "alpha", "noisy_latents", "checkpointing"}
    for kind, settings in (
        ("transfer", TransferSettings),
        ("shelf", TransferSettings),
        ("merge", MergeSettings),
        ("resize", ResizeSettings),
        ("distill", Distillation),
        ("distill", Training),
    ):
        assert {f.name for f in fields(settings)} - missing <= {f.name for f in JOBS[kind]}, kind


@pytest.mark.parametrize("kind", JOBS)
def test_what_is_left_out_has_its_default(kind):
    needed = {field.name: GIVEN[field.name] for field in JOBS[kind] if field.needed}
    values = checked(kind, needed)
    assert values.keys() == {field.name for field in JOBS[kind]}
    for field in JOBS[kind]:
        if not field.needed:
            assert values[field.name] == field.default
    assert checked(kind, {**needed, **{f.name: None for f in JOBS[kind] if not f.needed}}) == values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora": None}, "lora is missing"),
        ({"lora": ""}, "lora is missing"),
        ({"lora": 3}, "lora cannot be 3"),
        ({"method": "magic"}, "method cannot be 'magic'"),
        ({"method": ["copy"]}, "method cannot be"),
        ({"strength": "1"}, "strength cannot be '1'"),
        ({"strength": True}, "strength cannot be True"),
        ({"strength": float("nan")}, "strength cannot be nan"),
        ({"strength": 10**400}, "strength cannot be"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"rank": 0}, "from 1"),
        ({"rank": 2.5}, "whole number"),
        ({"output": "x" * 100_001}, "output cannot be"),
        ({"colour": "red"}, "transfer has no 'colour'"),
    ],
)
def test_what_a_field_does_not_take_is_refused_and_named(given, message):
    with pytest.raises(SettingsError) as refused:
        checked("transfer", {**transfer_needs(), **given})
    assert message in str(refused.value)


def transfer_needs() -> dict[str, str]:
    return {name: GIVEN[name] for name in ("lora", "source", "target")}


def test_a_whole_number_may_come_as_a_float():
    """Number boxes of older Gradios send nothing else."""
    assert checked("transfer", {**transfer_needs(), "rank": 8.0})["rank"] == 8


def test_an_unknown_job_and_what_is_no_object_are_refused():
    with pytest.raises(SettingsError, match="unknown job"):
        checked("bake", {})
    with pytest.raises(SettingsError, match="object"):
        checked("merge", ["loras"])
