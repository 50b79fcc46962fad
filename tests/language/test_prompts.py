"""Prompts for distilling on text: the generator, the discriminator, and when to stop asking."""

from __future__ import annotations

import json
import re

import pytest
import torch
from language_models import loaded, logits
from lora_graft import adapters
from lora_graft.cli.app import app
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.language import discriminator
from lora_graft.language.collect import collect
from lora_graft.language.generator import Batch, Generator, closing
from lora_graft.language.journal import Journal
from lora_graft.language.models import open_model
from lora_graft.language.settings import Example, TextData
from tiny_text import make, question, solve, words, write_seeds
from typer.testing import CliRunner

SEEDS = [Example(question("next", w), solve("next", w)) for w in ("ab", "ch", "fd", "he", "gg")]
OF_TASK = re.compile(r"n [a-h]{2} =")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A base that goes on with a list (other), and another one (old)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("zoo")
    make(folder / "old", steps=60)
    make(folder / "other", kind="Gemma", order="=hgfedcbasn \n", seed=2, width=48)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def trained(zoo):
    """A discriminator of other: prompts of two letters are the task's, those of one or three are not."""
    odd = [question("next", word) for word in ["a", "b", "c", "abc", "hgf", "dad", "eff", "cab", "bag", "had"]]
    odd += [question("same", word) for word in words()[::3]]
    real = [question("next", word) for word in words()[::2]]
    torch.set_num_threads(1)
    return discriminator.fit(open_model(zoo / "other"), real, odd, lora="x", lora_digest="y")


def test_the_generator_writes_prompts_of_the_seeds_kind(zoo):
    made = [Generator(open_model(zoo / "other"), SEEDS, temperature=1.0, seed=seed).batch(3) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2] and made[0].tokens > 16 * 40
    found = [prompt for one in made for prompt in one.prompts if OF_TASK.fullmatch(prompt)]
    assert len(found) > 24 and len(set(found)) > 10


def test_where_a_prompt_ends():
    assert closing(SEEDS) == " ="
    assert closing([Example("What is 1?\nAnswer:", "1"), Example("Who am I?\nAnswer:", "you")]) == "\nAnswer:"
    assert closing([Example("a =", "b"), Example("c :", "d")]) == "" == closing([Example("a =")])
    assert closing([Example("add 3 4", "7"), Example("add 1 4", "5")]) == ""


def test_prompts_alone_are_shown_where_seeds_have_no_answers(zoo):
    writer = Generator(open_model(zoo / "other"), [Example(e.prompt) for e in SEEDS], temperature=1.0, seed=0)
    assert writer.mark == "" and not any("\n" in prompt for prompt in writer.batch(0).prompts)


def batches(*rows: str):
    return lambda number: Batch(list(rows[number % len(rows)].split(",")), 7)


def data(**more) -> TextData:
    return TextData(**dict(seeds=SEEDS, samples=6, attempts=4) | more)


def test_repeats_copies_of_seeds_and_what_is_no_prompt_do_not_count():
    found = collect(batches("a,b,n  ab =,", "c,d,a,e", "f,g,h,i"), None, data(), words="")
    assert found.prompts == list("abcdef") and found.tokens == 21 and found.generated == 12
    assert (found.duplicates, found.unusable, found.rejected) == (2, 1, 0) and not found.notes


def test_the_discriminator_rejects_and_the_limit_ends_it():
    judge = lambda prompts: [0.9 if prompt in "aceg" else 0.1 for prompt in prompts]  # noqa: E731
    found = collect(batches("a,b,c,d", "e,f,g,h"), judge, data(), words="")
    assert found.prompts == list("aceg") and found.rejected == 4 and "4 of 6 prompts" in found.notes[0]
    assert found.scores == {"lowest": 0.1, "median": 0.5, "highest": 0.9}


@pytest.mark.parametrize(
    ("rows", "judge", "said"),
    [
        (["n ab =,n ch =,x"], None, "only repeats the seeds"),
        ([",,x,"], None, "1 are usable"),
        (["a,b,c", "d,e,f"], lambda p: [0.25] * len(p), r"accepted 0 of 24 prompts.* 0.250 to 0.250 .median 0.250"),
    ],
)
def test_too_few_prompts_are_told_with_the_reason(rows, judge, said):
    with pytest.raises(SettingsError, match=said):
        collect(batches(*rows), judge, data(), words="")


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path):
    def kept():
        return Journal(tmp_path / "run", "prompts", "0" * 64)

    class Asked(list):
        def __call__(self, number):
            self.append(number)
            return Batch([f"{number} {i}" for i in range(4)], 1)

    first, second = Asked(), Asked()
    whole = collect(first, None, data(samples=12), words="", journal=kept())
    file = next((tmp_path / "run").iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    again = collect(second, None, data(samples=12), words="", journal=kept())
    assert first == [0, 1, 2] and second == [2] and again == whole
    assert [json.loads(line)["tokens"] for line in file.read_text().splitlines()] == [1, 1, 1]


def test_a_discriminator_tells_prompts_apart_and_travels_in_a_folder(zoo, trained, tmp_path):
    assert (
        trained.real_right > 0.6 and trained.generated_right > 0.6 and "real ones" not in discriminator.report(trained)
    )
    out = discriminator.save(trained, tmp_path / "d")
    assert sorted(file.name for file in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "discriminator.json",
        "head.safetensors",
    ]
    base = open_model(zoo / "other")
    assert not torch.allclose(logits(base.model), loaded(base.model, out))
    found = discriminator.load(out)
    assert found.about == trained.about and (found.real, found.lora) == (32, "x")
    scores = discriminator.Judge(base, found)([question("next", "bd"), question("next", "abe"), question("same", "bd")])
    assert scores[0] > 0.6 and max(scores[1:]) < 0.4
    with pytest.raises(AdapterError, match="exists"):
        discriminator.save(trained, out)


def test_a_discriminator_of_another_model_or_damaged_is_refused(zoo, trained, tmp_path):
    with pytest.raises(AdapterError, match="was trained on other, and the source is another model, old"):
        discriminator.Judge(open_model(zoo / "old"), trained)
    out = discriminator.save(trained, tmp_path / "d")
    for text in ("{", '{"kind": "x"}', "[]", json.dumps(trained.about | {"more": 1})):
        (out / "discriminator.json").write_text(text)
        with pytest.raises(AdapterError, match="damaged"):
            discriminator.load(out)
    with pytest.raises(SettingsError, match="at least 2 real prompts, and there are 1"):
        discriminator.fit(open_model(zoo / "old"), ["a", "a"], ["b", "c"])


def run(*arguments):
    result = CliRunner().invoke(app, ["discriminator", *map(str, arguments)], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def test_the_command_lets_the_model_write_what_is_not_real(zoo, tmp_path):
    real, out = write_seeds(tmp_path / "real.jsonl", words()[::3]), tmp_path / "d"
    done, said = run("--model", zoo / "other", "--real", real, "--count", 24, "-o", out)
    assert done == 0 and "from 22 real and" in said and f"Wrote {out}" in said, said
    assert adapters.read(out).kinds == {"lora": 7} and discriminator.load(out).model == "other"
    done, said = run("--model", zoo / "other", "--real", real, "-o", out)
    assert done == 1 and "exists already" in said
    done, said = run("--real", real, "--chat", "-o", tmp_path / "x.safetensors")
    assert done == 2 and "--chat: only for language models" in said
    done, said = run("--real", real, "-o", tmp_path / "x.safetensors")
    assert done == 2 and "--generated: needed for pictures" in said
