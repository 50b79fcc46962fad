"""Guard prompts: without the trigger words, from tags, seed prompts and everyday ones, at the share asked for."""

from __future__ import annotations

import json
import re

import pytest
from lora_graft.adapters import Adapter
from lora_graft.errors import SettingsError
from lora_graft.jobs.distill.guard import EVERYDAY, guard_prompts
from lora_graft.jobs.distill.prompts import PromptSettings, synthesize

TAGS = {"sks": 50, "sks dog": 48, "red": 20, "blue": 20, "hat": 10, "sunny": 5, "a sks house": 3}
SEEDS = ["a photo of sks dog on the grass", "sks, asleep", "SKS: a portrait", "sks", "two sksen by a lake"]


def adapter(tags=TAGS):
    return Adapter({}, metadata={"ss_tag_frequency": json.dumps({"10_x": tags})})


def made(share, count=40, seeds=SEEDS, lora=None, **more):
    return synthesize(PromptSettings(seeds, lora or adapter(), count=count, guard_share=share, **more))


def guards(lines):
    return [line for line in lines if not re.search(r"\bsks\b", line, re.IGNORECASE)]


@pytest.mark.parametrize(("share", "count", "expected"), [(0.25, 40, 10), (0.5, 40, 20), (0.1, 7, 1), (0.9, 2, 1)])
def test_the_share_is_kept_and_the_rest_is_as_ever(share, count, expected):
    lines = made(share, count).lines
    assert len(lines) == count and len(guards(lines)) == expected
    plain = made(0, count - expected).lines
    assert sorted(set(lines) - set(guards(lines))) == sorted(set(plain))


def test_a_quarter_is_the_default_where_trigger_words_are_known():
    assert made(0.25) == synthesize(PromptSettings(SEEDS, adapter(), count=40))
    assert made(0, lora=Adapter({})) == synthesize(PromptSettings(SEEDS, Adapter({}), count=40))
    assert guards(made(0).lines) == [] and "guard" not in made(0).note


def test_sources_take_turns_and_the_report_counts_them():
    prompts = made(0.5, 24)
    found = set(guards(prompts.lines))
    everyday = found & set(EVERYDAY)
    seeds = found & {"a photo of dog on the grass", "asleep", "a portrait", "two sksen by a lake"}
    assert len(found) == 12 and len(everyday) == len(seeds) == 4
    assert all({*line.split(", ")} <= {"red", "blue", "hat", "sunny"} for line in found - everyday - seeds)
    assert "12 guard prompts without trigger words: 4 of training tags, 4 of seed prompts, 4 everyday ones" in (
        prompts.note
    )


def test_they_stand_among_the_others():
    lines = made(0.5, 60).lines
    places = [i for i, line in enumerate(lines) if line in guards(lines)]
    assert {i % 2 for i in places} == {0, 1} and 20 < sum(places) / len(places) < 40


def test_same_seed_same_prompts():
    assert made(0.4, seed=5) == made(0.4, seed=5)
    assert made(0.4, seed=5).lines != made(0.4, seed=6).lines


def test_without_known_trigger_words_all_are_everyday_ones():
    prompts = made(0.5, 20, lora=adapter({f"a sentence {i}": 1 for i in range(12)}))
    assert len(set(prompts.lines) & set(EVERYDAY)) == 10
    assert "10 everyday ones" in prompts.note and "Trigger words are not known" in prompts.note


def test_a_trigger_word_of_everyday_life_is_avoided():
    found = guard_prompts([], {}, ["dog"], 100, 0)
    assert {line for line, _ in found} == {line for line in EVERYDAY if not re.search(r"\bdog\b", line)}
    assert len(found) < 60


def test_more_than_there_are():
    prompts = made(0.9, 300)
    assert len(prompts.lines) == 300 and "There are no 270" in prompts.note


def test_everyday_prompts_are_all_different():
    assert len(set(EVERYDAY)) == len(EVERYDAY) == 60


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_impossible_shares(share):
    with pytest.raises(SettingsError, match="share of guard prompts"):
        made(share)
