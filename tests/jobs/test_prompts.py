"""Synthetic prompts: the template's grammar, tags by their counts, and what happens when sources are missing."""

import json
from collections import Counter

import pytest
from lora_graft.adapters import Adapter
from lora_graft.choices import Prompts
from lora_graft.errors import SettingsError
from lora_graft.jobs.distill.prompts import PromptSettings, synthesize, tidy

TAGS = {"sks": 40, "red": 30, "blue": 10, "hat": 8, "dog": 2}
SEEDS = ["a box on a table", "two boxes in the snow"]


def adapter(tags=TAGS, **metadata):
    tag_metadata = {"ss_tag_frequency": json.dumps({"4_sks": tags})} if tags else {}
    return Adapter(
        {}, metadata=tag_metadata | {key: v if isinstance(v, str) else json.dumps(v) for key, v in metadata.items()}
    )


def lines(template, count=200, **more):
    return synthesize(PromptSettings(template=template, count=count, guard_share=0, **more)).lines


def distinct(template, **more):
    return set(lines(template, **more))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a box", {"a box"}),
        ("{red|green} box", {"red box", "green box"}),
        ("box{| on a table}", {"box", "box on a table"}),
        ("{a {red|green} box|a bag}", {"a red box", "a green box", "a bag"}),
        ("{1|2}{a|b}", {"1a", "1b", "2a", "2b"}),
        ("one\n\n  two  \nthree|four", {"one", "two", "three|four"}),
        (r"\{a\|b\} c\\d \: 2\::x", {r"{a|b} c\d : 2::x"}),
        (r"{a\|b|c}", {"a|b", "c"}),
        (r"saber \(fate\)", {r"saber \(fate\)"}),
        ("{2.5::a|b}", {"a", "b"}),
        ("{seed|leaf}", {"seed", "leaf"}),
    ],
)
def test_grammar(template, expected):
    assert distinct(template) == expected


def test_weights_count():
    drawn = Counter(
        line.split()[0] for line in lines("{3::red|green} {seed}", count=2000, seeds=[f"box {i}" for i in range(20000)])
    )
    assert drawn["red"] / 2000 == pytest.approx(0.75, abs=0.04)
    drawn = Counter(
        line.split()[0] for line in lines("9::a {seed}\nb {seed}", count=2000, seeds=[f"box {i}" for i in range(20000)])
    )
    assert drawn["a"] / 2000 == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{red|green", "does not close"),
        ("red|green}", "was not opened"),
        ("{trigers}, a box", "neither a placeholder nor a choice"),
        ("{}", "neither a placeholder nor a choice"),
        ("{tags:0}", "neither a placeholder nor a choice"),
        ("{0::a|b}", "weight 0"),
        ("{tags|seed}", "bare word tags"),
        ("", "is empty"),
        (" \n ", "is empty"),
        ("{|}", "empty prompts only"),
    ],
)
def test_unreadable_templates(template, says):
    with pytest.raises(SettingsError, match=says) as caught:
        lines(template)
    assert caught.value.hint


def test_same_seed_same_prompts_and_another_seed_others():
    made = [synthesize(PromptSettings(SEEDS, adapter(), count=12, seed=seed)) for seed in (7, 7, 8)]
    assert made[0] == made[1]
    assert made[0].lines != made[2].lines


def test_default_template_has_triggers_tags_and_seeds():
    made = synthesize(
        PromptSettings(
            [f"a box, number {i}" for i in range(50)],
            adapter({"sks": 400, **{f"tag{i}": 40 for i in range(40)}}),
            count=100,
            guard_share=0,
        )
    )
    assert len(set(made.lines)) == 100
    assert all(line.startswith("sks, ") and line.count("sks") == 1 for line in made.lines)
    seeded = sum("number" in line for line in made.lines)
    assert 10 <= seeded <= 40
    assert f"{100 - seeded} with training tags (the LoRA's file knows 41), {seeded} from 50 seed prompts" in made.note
    assert "Trigger words: sks." in made.note


def test_tags_come_by_their_counts_without_repetition_and_as_many_as_captions_have():
    tags = {"a": 400, "b": 200, "c": 100, "d": 100} | {f"rare{i}": 1 for i in range(200)}
    captions = 250
    made = lines("{tag}, {seed}", count=3000, seeds=[f"s{i}" for i in range(10**5)], adapter=adapter(tags))
    seen = Counter(line.split(",")[0] for line in made)
    for tag in "abcd":
        assert seen[tag] / 3000 == pytest.approx(tags[tag] / 1000, abs=0.04)
    made = lines("{tags}", adapter=adapter(tags, ss_dataset_dirs={"1_x": {"n_repeats": 4, "img_count": captions}}))
    sizes = [len(line.split(", ")) for line in made]
    assert all(len(set(line.split(", "))) == size for line, size in zip(made, sizes, strict=True))
    assert set(sizes) <= {1, 2, 3} and len(set(sizes)) > 1  # 1000 tags in 400 captions: 2.5 each
    assert {len(line.split(", ")) for line in lines("{tags:3}", adapter=adapter(tags))} == {3}


def test_very_long_captions_are_cut():
    made = lines(
        "{tags}",
        count=50,
        adapter=adapter({f"t{i:03}": 100 for i in range(90)}, ss_dataset_dirs={"1_x": {"img_count": 100}}),
    )
    assert max(len(line.split(", ")) for line in made) <= 20


def test_trigger_words_in_every_caption_stay_together_and_named_ones_alternate():
    always = {"mychar": 50, "1girl": 49, "hat": 20, "tree": 10}
    assert all(line.startswith("mychar, 1girl") for line in lines("{trigger}, {tag}", 4, adapter=adapter(always)))
    named = adapter(None, **{"modelspec.trigger_phrase": "cat style; dog style"})
    assert distinct("{trigger}, {seed}", adapter=named, seeds=["a box"]) == {"cat style, a box", "dog style, a box"}


def test_captions_that_all_differ_have_no_trigger_words():
    sentences = adapter({f"a sentence about thing {i}": 1 for i in range(12)})
    made = synthesize(PromptSettings(adapter=sentences, template=Prompts.template, count=12))
    assert "Trigger words" not in made.note
    assert set(made.lines) == set(sentences.tags)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"seeds": SEEDS}, set(SEEDS)),
        ({"adapter": adapter({"sks": 3})}, {"sks"}),
        ({"adapter": adapter({"sks": 30, "red": 3, "blue": 3})}, {"sks, red", "sks, blue"}),
        ({"adapter": adapter({"sks": 3}), "seeds": SEEDS}, {f"sks, {line}" for line in SEEDS}),
    ],
)
def test_what_is_missing_is_left_out(sources, expected):
    made = synthesize(PromptSettings(template=Prompts.template, count=20, guard_share=0, **sources))
    assert set(made.lines) == expected


def test_alternatives_without_their_source_are_passed_over():
    assert distinct("{trigger} thing\nplain {seed}", seeds=["box"]) == {"plain box"}
    assert distinct("a{| {tags}| cat}") == {"a", "a cat"}


def test_too_few_different_ones_are_repeated_in_turn_and_reported():
    made = synthesize(PromptSettings(SEEDS, count=5))
    assert len(made.lines) == 5 and set(made.lines) == set(SEEDS)
    assert Counter(made.lines).most_common(1)[0][1] == 3
    assert "only 2 different prompts" in made.note


def test_all_of_them_are_found_when_they_are_as_many_as_asked_for():
    made = synthesize(PromptSettings(template="{a|b|c|d} {e|f|g|h}", count=16))
    assert len(set(made.lines)) == 16 and "different" not in made.note


def test_seed_lists_of_text_generators_lose_their_marks():
    assert distinct(
        "{seed}", seeds=["1. a cat", "2) a dog", "- a cow", "• a hen", "", "  ", "3 cats", "1.5 m of rope"]
    ) == {"a cat", "a dog", "a cow", "a hen", "3 cats", "1.5 m of rope"}


@pytest.mark.parametrize("template", [Prompts.template, "a photo of {trigger}", "{tags} in the {snow|rain}"])
def test_nothing_to_draw_from(template):
    with pytest.raises(SettingsError, match="nothing to make prompts from") as caught:
        lines(template, adapter=adapter(None))
    assert "seed prompts" in caught.value.hint


def test_count_below_one():
    with pytest.raises(SettingsError, match="at least 1"):
        PromptSettings(count=0)


def test_template_alone_is_enough():
    assert "8 prompts from the template" in synthesize(PromptSettings(template="{a|b}{c|d}{e|f}", count=8)).note


def test_missing_and_unused_sources_are_reported():
    note = synthesize(PromptSettings(SEEDS, adapter(), template="{seed}", count=2)).note
    assert "does not use the LoRA's trigger words (sks)" in note
    note = synthesize(PromptSettings(SEEDS, count=2)).note
    assert "asks for training tags, trigger words, of which there is none" in note


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" , a  box,, a box ,A Box, red ", "a box, red"),
        ("(a, b:1.2), (a, c:1.3)", "(a, b:1.2), (a, c:1.3)"),
        (", ,", ""),
    ],
)
def test_tidy(line, expected):
    assert tidy(line) == expected


def test_broken_metadata_is_no_obstacle():
    assert lines("{tags:1}", 2, adapter=adapter({"a": 5, "b": 5}, ss_dataset_dirs="[1]")) != []
    assert lines("{tags:1}", 2, adapter=adapter({"a": 5, "b": 5}, ss_dataset_dirs={"x": {"img_count": None}})) != []
