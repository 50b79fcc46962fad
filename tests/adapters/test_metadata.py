"""Trigger words and tags from what trainers write; DoRA carried to another base."""

import json

import pytest
import torch
from adapter_samples import SAMPLES, relative
from lora_graft import adapters
from lora_graft.adapters.metadata import tags, triggers
from lora_graft.errors import AdapterError


def test_tags_are_summed_over_folders():
    folders = {"10_sks dog": {"sks dog": 20, " grass": 5}, "img": {"grass": 6, "sky": 6}}
    metadata = {"ss_tag_frequency": json.dumps(folders)}
    assert tags(metadata) == {"sks dog": 20, "grass": 11, "sky": 6}
    assert list(tags(metadata)) == ["sks dog", "grass", "sky"]


def test_triggers_most_telling_first():
    metadata = {
        "modelspec.trigger_phrase": "in zz style",
        "ss_trigger_words": json.dumps(["zz", "in zz style"]),
        "ss_dataset_dirs": json.dumps({"10_sks dog": {"n_repeats": 10}, "5_never seen": {}}),
        "ss_tag_frequency": json.dumps({"10_sks dog": {"photo": 20, "sks dog": 12, "rare": 1}}),
    }
    assert triggers(metadata) == ["in zz style", "zz", "sks dog", "photo"]


@pytest.mark.parametrize("broken", ["{", "null", "[1, 2]", '{"a": 3}', '{"a": {"b": "c"}}', ""])
def test_broken_metadata_is_no_error(broken):
    metadata = {"ss_tag_frequency": broken, "ss_dataset_dirs": broken, "lora_adapter_metadata": broken}
    assert tags(metadata) == {} and triggers(metadata) == []
    adapter = adapters.from_state_dict({"m" + s: t for s, t in SAMPLES["lora"].tensors().items()}, metadata)
    assert adapter.triggers == [] and adapter.tags == {} and adapter.kinds == {"lora": 1}


DORAS = [n for n in SAMPLES if n.startswith("dora")]


def dora(name):
    return adapters.from_state_dict({"m" + s: t for s, t in SAMPLES[name].tensors().items()}).modules["m"]


@pytest.mark.parametrize("name", DORAS)
def test_reanchored_on_the_same_base_is_the_same_module(name):
    module, base = dora(name), SAMPLES[name].weight()
    again = module.reanchored(base, base)
    assert all(torch.equal(again.tensors[s], t) for s, t in module.tensors.items())


@pytest.mark.parametrize("name", DORAS)
def test_reanchored_keeps_the_relative_magnitude(name):
    """On another base, m divided by the norm it is divided by is what it was; so is a plain rescaling of the base."""
    module, source = dora(name), SAMPLES[name].weight(1)
    target = SAMPLES[name].weight(2) * 1.7
    moved = module.reanchored(source, target)
    gains = []
    for one, base in ((module, source), (moved, target)):
        merged = base + one.inner.delta(base)
        gains.append((base + one.delta(base)) / merged)
    assert relative(gains[1], gains[0]) < 1e-4
    assert moved.kind == "dora" and moved.tensors.keys() == module.tensors.keys()


def test_reanchored_takes_a_new_direction():
    module, base = dora("dora by output"), SAMPLES["dora by output"].weight()
    other = module.inner.scaled(0.5).renamed("n")
    moved = module.reanchored(base, base, inner=other)
    assert moved.key == "n" and relative(moved.inner.delta(), module.inner.delta() * 0.5) < 1e-6
    with pytest.raises(AdapterError, match="differ in shape"):
        module.reanchored(base, base[:, :3])


def test_dora_is_a_plain_update_given_its_base():
    for name in DORAS:
        module, base = dora(name), SAMPLES[name].weight()
        assert relative(module.low_rank(base).dense(), module.delta(base).flatten(1)) < 1e-6
