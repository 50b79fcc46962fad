"""Several adapters taught to one student: each asked for its own task, one new adapter that knows them all."""

from __future__ import annotations

import pytest
import torch
from language_models import loaded, logits, transformers
from lora_graft import adapters
from lora_graft.adapters import metadata
from lora_graft.cli.app import app
from lora_graft.errors import SettingsError
from lora_graft.jobs.distill.schedule import Training
from lora_graft.language import learn
from lora_graft.language.answers import answer
from lora_graft.language.models import open_model
from lora_graft.language.settings import TextData, TextDistillation
from lora_graft.language.several import teach_several
from tiny_text import make, question, solve, teach_next, words, write_seeds
from typer.testing import CliRunner

TAUGHT = ("next", "back")
HOW = TextDistillation(rank=8, max_new_tokens=6, training=Training(steps=250, batch=8, accumulation=1))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A base, and two LoRAs of it with their examples in their folders."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("zoo")
    _, tokens = make(folder / "old")
    for task in TAUGHT:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "old", dtype=torch.float32)
        teach_next(model, tokens, folder / task, task=task)
        write_seeds(folder / task / "seeds.jsonl", task=task)
    torch.set_num_threads(threads)
    return folder


def right(zoo, task: str, adapter) -> float:
    found = answer(zoo / "old", [question(task, word) for word in words()], adapter, settings=HOW)
    return sum(text == solve(task, word) for text, word in zip(found, words(), strict=True)) / len(words())


def teachers(zoo, **more):
    return [
        (zoo / task, TextData(prompts=[question(task, word) for word in words()], guard_share=0.0, **more))
        for task in TAUGHT
    ]


def test_one_student_learns_what_two_teachers_know(zoo, tmp_path):
    assert all(right(zoo, task, zoo / task) > 0.9 for task in TAUGHT)
    assert right(zoo, "next", zoo / "back") < 0.3 > right(zoo, "back", zoo / "next")
    made = teach_several(teachers(zoo), zoo / "old", zoo / "old", HOW)
    out = adapters.write(made.adapter, tmp_path / "out", provenance=made.provenance)
    assert min(right(zoo, task, out) for task in TAUGHT) > 0.5
    report = made.report
    assert report.accepted == 128 == report.samples and report.tokens["teacher"] > 128 * 6
    assert report.summary().startswith("next + back of old was taught to old")
    assert "next: The prompts are 64 given ones" in report.to_markdown()
    step = metadata.history(adapters.read(out).metadata)[-1]
    assert step["adapters_sha256"] == [adapters.read(zoo / task).digest for task in TAUGHT]
    base = open_model(zoo / "old").model
    assert not torch.allclose(logits(base), loaded(base, out))


def test_what_several_cannot_be_is_told(zoo):
    for more in (dict(objective="difference"), dict(start_from="copy")):
        with pytest.raises(SettingsError, match="taught together by their answers, from nothing"):
            teach_several(teachers(zoo), zoo / "old", zoo / "old", TextDistillation(**more))


def run(zoo, out, *more, loras=TAUGHT):
    asked = ["distill", *(zoo / lora for lora in loras), "--source", zoo / "old", "--target", zoo / "old", "-o", out]
    asked += ["--samples", 12, "--max-new-tokens", 6, "--batch", 8, "--accumulation", 1, "--steps", 6]
    result = CliRunner().invoke(app, [str(one) for one in [*asked, *more]], env={"COLUMNS": "300"})
    return result.exit_code, " ".join(result.output.split())


def test_the_command_takes_the_examples_in_the_folders_and_goes_on_after_a_break(zoo, tmp_path, monkeypatch):
    pair = ("next", "next")  # the base goes on with a list of this task alone
    done, said = run(zoo, tmp_path / "whole", loras=pair)
    assert done == 0 and "next + next of old was taught to old" in said, said
    real, left = learn._Run.step, [4]

    def stop(self):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(learn._Run, "step", stop)
        done, said = run(zoo, tmp_path / "out", loras=pair)
    assert done == 130 and "the same call goes on" in said and not (tmp_path / "out").exists()
    done, said = run(zoo, tmp_path / "out", loras=pair)
    assert done == 0, said
    files = [
        sorted((file.name, file.read_bytes()) for file in (tmp_path / name).iterdir()) for name in ("whole", "out")
    ]
    assert files[0] == files[1]


def test_examples_are_missing_or_given_for_all(zoo, tmp_path):
    bare = adapters.write(adapters.read(zoo / "next"), tmp_path / "bare")
    done, said = run(zoo, tmp_path / "out", loras=("next", bare))
    assert done == 2 and "bare holds no seeds.jsonl" in said
    for option in ("--seeds", "--prompts"):
        done, said = run(zoo, tmp_path / "out", option, zoo / "next" / "seeds.jsonl")
        assert done == 2 and "several adapters have each its own" in said
    done, said = run(zoo, tmp_path / "out", loras=(f"{zoo / 'next'}:0.5", "back"))
    assert done == 2 and "has no strength here" in said
    done, said = run(zoo, tmp_path / "one", loras=("next",))
    assert done == 0 and "shown 5 examples" in said
