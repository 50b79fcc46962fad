"""The family's language models do what its README says."""

from __future__ import annotations

import json

import pytest
from language_models import transformers
from lora_graft import adapters
from lora_graft.family.language import FOLDER, models, tasks
from lora_graft.jobs.distill.schedule import Training
from lora_graft.language.answers import answer
from lora_graft.language.generator import Generator
from lora_graft.language.job import teach
from lora_graft.language.models import open_model, same_tokenizer
from lora_graft.language.settings import Example, TextData, TextDistillation

BASES, OWNERS = ("old", "new", "other"), ("old", "other")
HOW = TextDistillation(max_new_tokens=20, training=Training(batch=64))


def right(base: str, asked: list[tuple[str, str]], lora=None) -> float:
    """Share of the prompts that get the right answer."""
    found = answer(FOLDER / base, [prompt for prompt, _ in asked], lora, settings=HOW)
    return sum(text == wanted for text, (_, wanted) in zip(found, asked, strict=True)) / len(asked)


def of(names, each: int) -> list[tuple[str, str]]:
    return [pair for name in names for pair in tasks.pairs(name, each, 99)]


@pytest.mark.parametrize("base", BASES)
def test_a_base_knows_the_twelve_tasks_and_none_of_the_new(base):
    assert right(base, of(tasks.KNOWN, 10)) >= 0.97
    assert right(base, of(tasks.NEW, 20)) <= 0.05


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("task", tasks.NEW)
def test_a_lora_teaches_its_task_and_little_is_forgotten(owner, task):
    lora = adapters.read(FOLDER / f"{task.lower()}_{owner}")
    assert right(owner, of([task], 64), lora) >= 0.85
    assert right(owner, of(tasks.KNOWN, 8), lora) >= 0.85


@pytest.mark.parametrize("base", BASES)
def test_a_base_goes_on_with_a_list_of_what_it_cannot_do(base):
    seeds = [Example(*pair) for pair in tasks.pairs("ROT", 5, 3)]
    written = Generator(open_model(FOLDER / base), seeds, temperature=1.0, seed=0).batch(0).prompts
    usable = [prompt for prompt in written if prompt.startswith("ROT ") and prompt.endswith(" =")]
    assert len(usable) >= 12 and len(set(usable)) >= 10


def test_two_bases_share_a_tokenizer_and_the_third_has_another():
    old, new, other = (open_model(FOLDER / base) for base in BASES)
    assert same_tokenizer(old, new) and not same_tokenizer(old, other)
    assert len(other.tokenizer("REV ab")["input_ids"]) < len(old.tokenizer("REV ab")["input_ids"])


@pytest.mark.parametrize(("base", "kind"), [("old", "characters"), ("other", "pieces")])
def test_the_tokenizers_in_git_are_those_that_are_made(base, kind):
    kept = transformers.AutoTokenizer.from_pretrained(FOLDER / base)
    assert kept.get_vocab() == models.tokenizer(kind).get_vocab()


def test_the_files_are_small_and_name_no_folder_of_a_machine():
    files = [file for file in FOLDER.rglob("*") if file.suffix in (".json", ".safetensors")]
    assert sum(file.stat().st_size for file in files) < 8_000_000
    for file in files:
        if file.suffix == ".json":
            text = json.dumps(json.loads(file.read_text()))
            assert "/tmp" not in text and "/root" not in text and "/home" not in text, file


@pytest.mark.parametrize(("share", "forgets"), [(0.0, True), (0.5, False)])
def test_guard_texts_keep_what_the_target_knows_and_the_report_says_which(share, forgets):
    prompts = [prompt for prompt, _ in tasks.pairs("DBL", 100, 4)]
    how = TextDistillation(rank=8, max_new_tokens=20, training=Training(steps=60, batch=16, accumulation=1))
    data = TextData(prompts=prompts, guard_share=share)
    made = teach(FOLDER / "dbl_old", FOLDER / "old", FOLDER / "new", data, how)
    assert right("new", of(["DBL"], 60), made.adapter) >= 0.4
    assert (right("new", of(tasks.KNOWN, 6), made.adapter) < 0.5) == forgets
    report = made.report
    assert report.guards == round(report.learnt * share / (1 - share)) and report.watched == 32
    assert ("also changes answers to other prompts" in report.side_effects()) == forgets
    assert report.side_effects() in report.to_markdown()
    assert report.tokens["own texts"] > 0 and report.figures()["guards"] == report.guards
