"""Datasets: what is drawn, what is kept, and the file they travel in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.io import safetensors
from lora_graft.jobs.distill import dataset as files
from lora_graft.jobs.distill.dataset import Dataset, require_samples
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.generate import TARGET_SEEDS, Generation, account, generate
from lora_graft.jobs.distill.noisy_latents import CROSSED, EMPTY, HELD_OUT, make_noisy_latents

QUICK = Drawing(64, 64, steps=4, cfg=1.0)


def drawn(
    lab,
    prompts=("red digit two", "a green three"),
    target="s",
    loras=("frame_a",),
    references=None,
    embed=None,
    progress=None,
    **more,
):
    teacher = Teacher(lab.model("a"), [lab.model("a", *loras)])
    target = lab.model(target) if isinstance(target, str) else target
    return generate(
        teacher,
        target,
        prompts,
        Generation(**{"count": 8, "drawing": QUICK, **more}),
        references=references,
        embed=embed,
        progress=progress,
    )


def equal(one: Dataset, other: Dataset) -> bool:
    tensors = [d._tensors() for d in (one, other)]
    return (
        tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(t, tensors[1][k]) for k, t in tensors[0].items())
        and one.prompts == other.prompts
        and one.info == other.info
    )


def test_half_from_each_with_their_own_seeds(lab):
    found = drawn(lab, seed=40)
    assert found.prompts == ["red digit two", "a green three"] * 2
    assert found.taught.shape == found.plain.shape == found.target.shape == (4, 16, 8, 8)
    again = lab.model("a").draw(found.prompts, [40, 41, 42, 43], QUICK, lambda *_: None)
    assert torch.allclose(found.plain, again, atol=1e-5)
    theirs = lab.model("s").draw(found.prompts, [TARGET_SEEDS + 40 + i for i in range(4)], QUICK, lambda *_: None)
    assert torch.allclose(found.target, theirs, atol=1e-5)
    assert found.info["evaluations"] == 4 * 12 and found.info["distinct_prompts"] == 2
    assert (found.acts > 0.3).all() and found.kept.all()


def test_an_odd_count_gives_the_teacher_one_more(lab):
    found = drawn(lab, count=5)
    assert (len(found.taught), len(found.target)) == (3, 2)


@pytest.mark.parametrize("target", [None, "elsewhere"])
def test_without_a_target_of_the_same_space_all_are_the_teachers(lab, target):
    if target:
        target = lab.model("s")
        target.space = "elsewhere"
    found = drawn(lab, target=target)
    assert found.target is None and len(found.taught) == 8 and found.info["target"] == ""
    assert found.info["evaluations"] == 4 * 16
    assert ", 8 without from the same seeds;" in account(found)


def test_same_seed_same_dataset(lab):
    one, two, other = (drawn(lab, seed=seed) for seed in (1, 1, 2))
    assert equal(one, two) and one.digest == two.digest != other.digest


@pytest.mark.parametrize("prompts", [[], ["", "  \t"]])
def test_no_prompts(lab, prompts):
    with pytest.raises(SettingsError, match="no prompts") as caught:
        drawn(lab, prompts)
    assert "Synthetic Prompts" in caught.value.hint


def test_progress_counts_every_picture_once(lab):
    calls = []
    drawn(lab, progress=lambda done, total, label: calls.append((done, total, label)))
    assert {total for _, total, _ in calls} == {12}
    assert [done for done, _, _ in calls] == [0, 4, 8, 12]
    assert [label.split(" draws")[0] for _, _, label in calls[:3]] == ["family_a with LoRA", "family_a", "family_s"]


def test_a_lora_that_does_nothing_there_is_rejected(lab):
    still = generate(
        Teacher(lab.model("a"), [lab.model("a", "frame_a", strength=0.01)]),
        None,
        ["red digit two"],
        Generation(count=4, drawing=QUICK),
    )
    assert not still.kept.any() and still.acts.max() < 0.05
    text = account(still)
    assert "0 of 4 samples were kept" in text and "4 were rejected because the LoRA hardly changes them" in text
    with pytest.raises(SettingsError, match="All 4 samples were rejected: the LoRAs act on them at 0.0") as caught:
        make_noisy_latents(still, lab.model("s"), "difference", 8, 0, [])
    assert f"median {still.acts.median():.3f}" in str(caught.value)
    assert "Lower the thresholds" in caught.value.hint and "trigger words" in caught.value.hint


def means(latents):
    return latents.flatten(2).mean(2)


def test_references_choose_between_kinds(lab):
    """References that look like the effect accept the samples; those that look like the plain source reject them."""
    known = drawn(lab, count=12, target=None, seed=500)
    alike = drawn(lab, target=None, references=means(known.taught), embed=means)
    unlike = drawn(lab, target=None, references=means(known.plain), embed=means)
    assert alike.likeness.min() > 0.5 and alike.kept.all()
    assert unlike.likeness.mean() < alike.likeness.mean() - 0.2
    rejected = int((unlike.likeness < 0.5).sum())
    assert rejected and int(unlike.kept.sum()) == 8 - rejected
    assert f"{rejected} look less like the references" in account(unlike)
    assert "likeness" in account(unlike) and "likeness" not in account(known)


def test_references_need_something_that_embeds_the_samples(lab):
    with pytest.raises(SettingsError, match="embeds the samples"):
        drawn(lab, references=torch.zeros(2, 16))


def test_all_rejected_by_the_references_says_how_alike(lab):
    found = drawn(lab)
    found = replace(found, likeness=torch.full((4,), 0.25), kept=torch.zeros(4, dtype=torch.bool))
    with pytest.raises(SettingsError, match=r"likeness to the references 0\.25 to 0\.25"):
        require_samples(found)


def test_rejected_samples_are_not_learnt_from(lab):
    found = drawn(lab, target=None, least_action=0.0)
    found.kept[:] = torch.arange(8) % 4 == 1
    found.taught[~found.kept] = 1e6
    training_set = make_noisy_latents(found, lab.model("s"), "samples", 16, 0, [])
    assert len(training_set.latents) == 4 and training_set.clean(torch.arange(len(training_set))).abs().max() < 1e4


def test_noisy_latents_use_every_latent_and_some_have_no_prompt(lab):
    found = lab.dataset()
    student = lab.model("s")
    training_set = make_noisy_latents(found, student, "difference", 600, 3, [lab.model("a")])
    assert len(training_set) == 600 + HELD_OUT and training_set.target_prediction.shape == (len(training_set), 16, 8, 8)
    assert torch.bincount(training_set.pick).tolist() == pytest.approx([632 / 32] * 32, abs=1)
    assert (training_set.prompt_index == 0).float().mean() == pytest.approx(EMPTY, abs=0.05) and training_set.prompts[
        0
    ] == ""
    own = [found.prompts[int(i) % 16] for i in training_set.pick]
    given = [training_set.prompts[i] for i in training_set.prompt_index]
    same = [line == mine for line, mine in zip(given, own, strict=True) if line]
    by_chance = CROSSED / len(set(found.prompts))
    assert sum(same) / len(same) == pytest.approx(1 - CROSSED + by_chance, abs=0.1)
    assert len(set(training_set.seeds.tolist())) == len(training_set)
    some = torch.tensor([5, 9])
    assert torch.equal(training_set.noise(some), training_set.noise(torch.tensor([9, 5])).flip(0)), (
        "noise belongs to its latent"
    )
    low, high = student.sigmas(torch.tensor([1e-6, 1 - 1e-6]))
    assert (
        training_set.sigma.min() >= low
        and training_set.sigma.max() <= high
        and training_set.sigma.max() > 10 * training_set.sigma.median()
    )


def test_prompts_without_a_picture_are_learnt_too_where_a_teacher_answers(lab):
    """All in turn; not with samples, whose pictures are what a prompt should bring."""
    found, student = lab.dataset(), lab.model("s")
    more = replace(found, info={**found.info, "lines": [*found.prompts, "a blue nine", "a green zero"]})
    training_set = make_noisy_latents(more, student, "difference", 600, 3, [])
    given = [training_set.prompts[i] for i in training_set.prompt_index]
    assert given.count("a blue nine") > 0 and abs(given.count("a blue nine") - given.count("a green zero")) <= 8
    alone = make_noisy_latents(more, student, "samples", 600, 3, [])
    assert {alone.prompts[i] for i in alone.prompt_index} == {"", *found.prompts}


def test_sigmas_stay_within_every_models_range(lab):
    class Narrow:
        def sigmas(self, shares):
            return torch.where(shares < 0.5, torch.tensor(0.3), torch.tensor(4.0))

    training_set = make_noisy_latents(lab.dataset(), lab.model("s"), "difference", 64, 3, [Narrow()])
    assert training_set.sigma.min() == pytest.approx(0.3) and training_set.sigma.max() == pytest.approx(4.0)


@pytest.mark.parametrize(
    "wrong", [{"count": 1}, {"least_likeness": 1.5}, {"least_action": -1.0}, {"least_action": float("nan")}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingsError):
        Generation(**wrong)


@pytest.mark.parametrize("full", [True, False])
def test_a_file_holds_all_of_it(lab, tmp_path, full):
    found = drawn(lab, ["a “red” digit\\two", "绿色 | 三"], target="s" if full else None)
    found = replace(found, likeness=torch.rand(4) if full else None)
    path = files.save(found, tmp_path / "set.safetensors")
    again = files.load(path)
    assert equal(found, again) and again.digest == found.digest
    assert (again.target is None) != full and (again.likeness is None) != full
    assert again.kept.dtype == torch.bool and account(again) == account(found)
    assert files.save(again, tmp_path / "twin.safetensors").read_bytes() == path.read_bytes()


def test_the_digest_is_the_one_that_files_quote():
    """Adapters name their dataset by it, and a broken run is found again by it."""
    latents = torch.arange(4).float().reshape(2, 2, 1, 1)
    acts, kept = torch.tensor([0.5, 0.25]), torch.tensor([True, False])
    found = Dataset(["red two", "绿"], latents, latents + 1, None, acts, kept, info={"seed": 3})
    assert found.digest == "fef7d5f4b1c9f88f3b620d605b69d896adabe07d3486814300bcaf7266bc7095"


def test_a_file_is_never_overwritten(lab, tmp_path):
    path = tmp_path / "set.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(AdapterError, match="exists already"):
        files.save(lab.dataset(), path)
    assert path.read_bytes() == b"mine"
    files.save(lab.dataset(), path, overwrite=True)
    assert equal(files.load(path), lab.dataset())


def test_a_folder_that_is_not_there(lab, tmp_path):
    with pytest.raises(AdapterError, match="cannot be written"):
        files.save(lab.dataset(), tmp_path / "none" / "set.safetensors")


@pytest.mark.parametrize("metadata", [{}, {files.KIND: "[]"}, {files.KIND: "{"}, {files.KIND: '{"prompts": []}'}])
def test_foreign_files(tmp_path, metadata):
    path = safetensors.save(tmp_path / "x.safetensors", {"taught": torch.zeros(1)}, metadata)
    with pytest.raises(AdapterError, match="not a dataset of the Synthetic Dataset node"):
        files.load(path)
    with pytest.raises(AdapterError, match="No such file"):
        files.load(tmp_path / "y.safetensors")
