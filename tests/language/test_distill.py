"""Distilling on text: adapters that really learn, on tiny models that really answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from language_models import loaded, logits, predicted
from lora_graft import adapters
from lora_graft.adapters import metadata
from lora_graft.cli.app import app
from lora_graft.errors import SettingsError
from lora_graft.jobs.distill.schedule import Training
from lora_graft.language import goals, learn
from lora_graft.language.answers import answer
from lora_graft.language.examples import read_examples
from lora_graft.language.generator import Generator
from lora_graft.language.job import teach
from lora_graft.language.models import open_model, with_adapter
from lora_graft.language.run import TextRun
from lora_graft.language.settings import Example, TextData, TextDistillation
from lora_graft.language.texts import Format
from tiny_text import make, question, solve, teach_next, words, write_seeds
from typer.testing import CliRunner

PROMPTS = [question("next", word) for word in words()]
CLOSE = dict(atol=1e-4, rtol=1e-4)
QUICK = Training(steps=60, batch=8, accumulation=1)
LONGER = Training(steps=120, batch=8, accumulation=1)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Bases old, new (of one tokenizer) and other (another width, layout and tokenizer), and a LoRA of old."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("zoo")
    model, tokens = make(folder / "old")
    make(folder / "new", seed=5)
    make(folder / "other", kind="Gemma", order="=hgfedcbasn \n", seed=2, width=48)
    teach_next(model, tokens, folder / "lora")
    write_seeds(folder / "seeds.jsonl")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    torch.set_num_threads(threads)
    return folder


def settings(**more) -> TextDistillation:
    return TextDistillation(**dict(rank=4, max_new_tokens=6, training=QUICK) | more)


def right(model, adapter=None, task="next") -> float:
    """Share of all questions of a task that are answered rightly."""
    asked = [question(task, word) for word in words()]
    found = answer(model, asked, adapter, settings=settings())
    return sum(a == solve(task, w) for a, w in zip(found, words(), strict=True)) / len(asked)


def test_the_teacher_knows_what_the_bases_do_not(zoo):
    assert right(zoo / "old", zoo / "lora") > 0.9 and right(zoo / "old") < 0.1 and right(zoo / "other") < 0.1
    assert right(zoo / "new", task="same") > 0.9


@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("other", {"training": LONGER}),
        ("new", {"kind": "dora"}),
        ("new", {"kind": "loha", "rank": 6}),
        ("new", {"objective": "difference", "training": LONGER}),
        ("new", {"modules": "linear", "start_from": "copy"}),
    ],
)
def test_an_adapter_learns_the_teachers_answers_and_peft_loads_it(zoo, tmp_path, target, more):
    made = teach(zoo / "lora", zoo / "old", zoo / target, TextData(prompts=PROMPTS, guard_share=0.0), settings(**more))
    out = adapters.write(made.adapter, tmp_path / "out", provenance=made.provenance)
    assert made.figures["agreement_before"] < 0.2 and made.report.explained > 0.2
    assert right(zoo / target, out) > 0.3
    assert made.figures["accepted"] == len(PROMPTS) and made.figures["held_out"] == 6
    kind = more.get("kind", "lora")
    read = adapters.read(out)
    assert set(read.kinds) == {kind} and metadata.history(read.metadata)
    base = open_model(zoo / target).model
    assert not torch.allclose(logits(base), loaded(base, out), **CLOSE)
    assert torch.allclose(predicted(base, read), loaded(base, out), **CLOSE)


def test_the_difference_of_logits_is_nothing_for_an_adapter_that_adds_what_the_teachers_does(zoo):
    lora = adapters.read(zoo / "lora")
    teacher, student = open_model(zoo / "old"), open_model(zoo / "old")
    with_adapter(teacher, lora)
    with_adapter(student, lora)
    pairs = [Format(student).pair(question("next", word), solve("next", word)) for word in words()[:4]]
    found, count = goals.difference(student, teacher, 1.0)(pairs)
    assert count == 4 * 4 and abs(float(found)) < 1e-4  # a space, two letters, the end
    assert float(goals.difference(student, teacher, 0.5)(pairs)[0]) > 0.1
    assert float(goals.answers(student)(pairs)[0]) / count < 0.2


def test_real_data_need_no_teacher(zoo):
    pairs = [Example(question("next", word), solve("next", word)) for word in words()]
    made = teach(None, None, zoo / "new", TextData(pairs=pairs, guard_share=0.0), settings())
    assert made.figures["teacher_tokens"] == 0 and made.figures["loss_last"] < 0.5
    assert made.report.summary().startswith("Examples were taught to new")
    sure = replace(made.report, trouble="", agreement_after=1.0).advice()
    assert "On prompts like those it learnt from" in sure and "Try others of the task" in sure
    both = TextData(pairs=pairs[:20])
    made = teach(
        zoo / "lora", zoo / "old", zoo / "new", both, settings(objective="difference", training=Training(steps=2))
    )
    assert made.report.objective == "difference" and made.figures["learnt"] == 18


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "400"})
    return result.exit_code, result.output


def call(zoo, out, *more, target="other", prompts=True, source="old", lora="lora"):
    asked = ["--prompts", zoo / "prompts.txt"] if prompts else ["--seeds", zoo / "seeds.jsonl"]
    words = ["distill", zoo / lora, "--source", zoo / source, "--target", zoo / target, *asked, "-o", out]
    words += ["--rank", 4, "--max-new-tokens", 6, "--batch", 8, "--accumulation", 1]
    return [*words, *([] if "--steps" in more else ["--steps", 8]), *more]


def same_bytes(a: Path, b: Path) -> bool:
    one, other = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in (a, b))
    return one == other


class Stop:
    """Ctrl-C in the n-th call of a method."""

    def __init__(self, monkeypatch, where, name, at):
        self.real, self.left = getattr(where, name), at

        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return self.real(*args, **kwargs)

        monkeypatch.setattr(where, name, call)


def test_a_run_broken_off_twice_goes_on_and_ends_with_the_same_bytes(zoo, tmp_path, monkeypatch):
    how = ("--samples", 24, "--report", tmp_path / "r.md")
    done, said = run(*call(zoo, tmp_path / "whole", *how, prompts=False))
    assert done == 0 and "prompts were written by other" in said, said
    (tmp_path / "r.md").unlink()
    with monkeypatch.context() as patch:
        Stop(patch, Generator, "batch", 2)
        done, said = run(*call(zoo, tmp_path / "out", *how, prompts=False))
    kept = tmp_path / "out.unfinished"
    assert done == 130 and "the same call goes on" in said and [f.name[:8] for f in kept.iterdir()] == ["prompts_"]
    with monkeypatch.context() as patch:
        Stop(patch, learn._Run, "step", 6)
        done, said = run(*call(zoo, tmp_path / "out", *how, prompts=False))
    assert done == 130 and "best so far is in" in said, said
    assert set(adapters.read(kept / "best_so_far").kinds) == {"lora"} and not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:
        Stop(patch, Generator, "batch", 1)  # nothing is written anew
        done, said = run(*call(zoo, tmp_path / "out", *how, prompts=False))
    assert done == 0 and not kept.exists() and same_bytes(tmp_path / "out", tmp_path / "whole"), said
    report = (tmp_path / "r.md").read_text()
    assert "went on from its step 5" in report and "held-out prompt" in report


def test_the_report_has_a_picture_and_the_folder_is_not_written_over(zoo, tmp_path):
    made = call(zoo, tmp_path / "out", "--plot", tmp_path / "p.png", "--report", tmp_path / "r.json")
    assert run(*made)[0] == 0
    figures = json.loads((tmp_path / "r.json").read_text())
    assert figures["totals"]["tokens"] > 0 and len(figures["losses"]) == 8 and (tmp_path / "p.png").stat().st_size
    before = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    done, said = run(*call(zoo, tmp_path / "out"))
    assert done == 1 and "exists already" in said
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--count", 4), "--count: only for diffusion models, and old is a language model"),
        (("--kind", "lokr"), "unknown kind 'lokr' for a language model"),
        (("--objective", "samples"), "unknown objective 'samples' for a language model"),
        (("--objective", "difference"), "have different tokenizers"),
        (("--chat",), "has no chat template"),
        (("--max-new-tokens", 250), "Every prompt is too long: with 250 tokens"),
        (("--max-new-tokens", 1), "64 of 64 answers of the source are longer than 1 tokens"),
        (("--start-from", "copy", "--kind", "loha"), "begins as lora, and the student is to be loha"),
        (("--discriminator", "nowhere"), "no discriminator in this folder"),
    ],
)
def test_what_does_not_go_is_told_and_nothing_written(zoo, tmp_path, more, said):
    prompts = more[0] != "--discriminator"
    done, found = run(*call(zoo, tmp_path / "out", *more, prompts=prompts))
    assert done in (1, 2) and said in " ".join(found.split()), found
    assert not (tmp_path / "out").exists()


def test_models_and_adapters_that_do_not_go(zoo, tmp_path):
    copied = shutil.copytree(zoo / "old", tmp_path / "old")

    def told(**more):
        done, found = run(*call(zoo, tmp_path / "out", **more))
        assert done == 1 and not (tmp_path / "out").exists(), found
        return " ".join(found.split())

    assert "the base it was trained on" in told(source="other") or "looks like" in told(source="other")
    (copied / "tokenizer.json").unlink()
    assert "has no tokenizer" in told(target=tmp_path / "old") and str(copied) in told(target=tmp_path / "old")
    (copied / "tokenizer.json").write_text("{")
    assert "tokenizer cannot be read" in told(target=tmp_path / "old")
    (copied / "model.safetensors").unlink()
    assert "no safetensors model" in told(target=tmp_path / "old")
    assert "no safetensors model" in told(target=tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no examples"),
        ('{"prompt": "a", "answer": "b"}\n\n{"prompt": 5}', "Line 3: prompt is not text"),
        ('{"prompt": "a"}\n{"answer": "b"}', "Line 2 has no prompt"),
        ("a\n", "Line 1 is not JSON"),
        ("[1]", "Line 1 is not an example"),
    ],
)
def test_seeds_that_cannot_be_read_are_told_with_the_line(zoo, tmp_path, text, said):
    file = tmp_path / "seeds.jsonl"
    file.write_text(text)
    done, found = run(*call(zoo, tmp_path / "out", "--seeds", file))
    assert done == 1 and said in found and "seeds.jsonl" in found


def test_seeds_in_other_words(tmp_path):
    file = tmp_path / "seeds.jsonl"
    file.write_text('{"input": "a", "output": "b"}\r\n{"text": "c"}\n', encoding="utf-8")
    assert read_examples(file) == [Example("a", "b"), Example("c")]
    with pytest.raises(SettingsError, match="Line 2 has no answer"):
        read_examples(file, answered=True)


def test_without_the_libraries(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_graft.language.models.find_spec", lambda name: None if name == "peft" else object())
    done, found = run(*call(zoo, tmp_path / "out"))
    assert done == 1 and "needs peft" in found and "lora-graft[llm]" in found


def test_one_file_is_read_as_the_folder_is(zoo, tmp_path):
    asked = ("--alpha", 8, "--steps", 3)
    for out in ("folder", "file.safetensors"):
        assert run(*call(zoo, tmp_path / out, *asked))[0] == 0
    one, other = adapters.read(tmp_path / "folder"), adapters.read(tmp_path / "file.safetensors")
    assert all(torch.equal(one.modules[key].delta(), other.modules[key].delta()) for key in one.modules)
    assert next(iter(one.modules.values())).scale() == 2


def test_computing_blocks_twice_changes_nothing(zoo):
    made = [
        teach(
            zoo / "lora",
            zoo / "old",
            zoo / "new",
            TextData(prompts=PROMPTS[:10]),
            settings(training=Training(steps=3, batch=4, accumulation=1, checkpointing=twice)),
        )
        for twice in (False, True)
    ]
    assert made[0].report.losses == pytest.approx(made[1].report.losses, rel=1e-5)


def test_a_folder_without_a_run_keeps_nothing(zoo, tmp_path):
    short = settings(training=Training(steps=2))
    made = teach(zoo / "lora", zoo / "old", zoo / "new", TextData(prompts=PROMPTS[:10]), short)
    assert made.figures["steps"] == 2 and not list(tmp_path.iterdir()) and TextRun().kept is False
