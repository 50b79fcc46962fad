"""Distillation on the example family: what is taught arrives, whatever the objective, and refusals are clear."""

from __future__ import annotations

import re

import pytest
import torch
from lora_graft import adapters
from lora_graft.errors import SettingsError
from lora_graft.family import judge, materialize
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.family.sample import sample
from lora_graft.jobs.distill.denoiser import Teacher
from lora_graft.jobs.distill.distill import Distillation, choose, distill
from lora_graft.jobs.distill.noisy_latents import HELD_OUT, make_noisy_latents, set_target_predictions
from lora_graft.jobs.distill.schedule import Training

SHORT = Training(steps=3, batch=8, accumulation=2)


def settings(training=SHORT, **more):
    return Distillation(**{"rank": 4, "noisy_latents": 16, "training": training, "guards": 0, **more})


def run(lab, target="s", loras=("frame_a",), dataset=None, chosen=None, teacher=None, **more):
    student = lab.model(target) if isinstance(target, str) else target
    return distill(
        dataset or lab.dataset(),
        teacher or lab.teacher(*loras),
        student,
        [lab.family.adapter(lora) for lora in loras],
        chosen or settings(),
        **more,
    )


def file_of(result, path) -> bytes:
    return adapters.write(result.adapter, path, provenance=result.provenance).read_bytes()


class Elsewhere(FamilyDenoiser):
    """The family with another latent space: its latents are twice as large."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.space, self.label = "elsewhere", "another family"


class Counting(FamilyDenoiser):
    """Counts the samples that it was asked about."""

    asked = 0

    def predict(self, clean, *rest):
        self.asked += len(clean)
        return super().predict(clean, *rest)


def test_the_effect_arrives_on_an_unrelated_base(lab, tmp_path):
    learnt = run(lab, chosen=Distillation(rank=8, noisy_latents=256, training=Training(20)))
    assert learnt.report.explained > 0.6 and learnt.report.objective == "difference"
    assert learnt.report.losses[-1] < learnt.report.losses[0] / 2
    written = adapters.read(adapters.write(learnt.adapter, tmp_path / "s.safetensors", provenance=learnt.provenance))
    prompts = ["white digit zero", "red digit two", "a green three", "number four in blue ink"]

    def frames(letter, lora=None):
        images = sample(
            materialize.base(letter),
            materialize.autoencoder(),
            prompts,
            range(50, 54),
            adapters=[(lora, 1.0)] if lora else [],
        )
        return judge.look(materialize.judge_weights(), images).effects[:, 0].mean()

    alone, copied, taught = frames("s"), frames("s", lab.family.adapter("frame_a")), frames("s", written)
    assert alone < 0.2 and copied < 0.2, "weights alone carry nothing to a stranger"
    assert taught > 0.7
    text = learnt.report.to_markdown()
    assert re.search(r"Time: preparing [\d.]+ s, learning [\d.]+ s", text)
    assert "family_frame_a.safetensors of family_a was taught to family_s in 20 steps" in text
    assert written.metadata["ss_tag_frequency"] == lab.family.adapter("frame_a").metadata["ss_tag_frequency"]
    assert len(written.modules) == 15 and {module.rank for module in written.modules.values()} == {8}


def test_files_name_the_settings_as_ever():
    """The number of noisy latents has been called "lessons" in files from the first version on."""
    stored = Distillation(noisy_latents=16).stored()
    assert stored["lessons"] == 16 and stored["training"]["steps"] == 100
    assert list(stored) == [
        "objective",
        "kind",
        "rank",
        "alpha",
        "where",
        "effect",
        "match_effect",
        "lessons",
        "training",
    ]


def test_same_seed_same_file_and_other_seed_another(lab, tmp_path):
    files = [
        file_of(
            run(lab, chosen=settings(Training(2, batch=8, accumulation=1, seed=seed))), tmp_path / f"{i}.safetensors"
        )
        for i, seed in enumerate((3, 3, 4))
    ]
    assert files[0] == files[1] != files[2]


def test_several_adapters_are_the_sum_of_their_effects(lab):
    target, names = lab.model("b"), ("frame_a", "slant_a", "stripes_a")
    teacher, dataset = lab.teacher(*names), lab.dataset()

    def target_predictions(teacher, strength=1.0):
        training_set = make_noisy_latents(dataset, target, "difference", 8, 5, [teacher.base])
        return set_target_predictions(training_set, teacher, target, "difference", strength, 16, lambda *_: None)

    together = target_predictions(teacher)
    assert together.effect() > 0.1
    alone = [target_predictions(Teacher(teacher.base, [one])) for one in teacher.adapted]
    assert torch.allclose(
        together.target_prediction - together.base_prediction,
        sum(training_set.target_prediction - training_set.base_prediction for training_set in alone),
        atol=1e-4,
    )
    answer = target.predict(
        together.clean(torch.arange(4)),
        together.noise(torch.arange(4)),
        together.sigma[:4],
        target.encode([together.prompts[i] for i in together.prompt_index[:4]]),
    )
    assert torch.allclose(together.base_prediction[:4], answer, atol=1e-5)
    half = target_predictions(teacher, 0.5)
    assert torch.allclose(
        half.target_prediction - half.base_prediction,
        0.5 * (together.target_prediction - together.base_prediction),
        atol=1e-4,
    )
    assert half.effect() == pytest.approx(0.5 * together.effect(), rel=1e-4)


def test_the_source_as_target_merges(lab):
    """The target is the source: what is taught is the teacher's own answer, and the share counts from the base."""
    learnt = run(lab, "a", ("frame_a", "slant_a"))
    assert learnt.report.explained > 0
    assert "family_frame_a.safetensors and family_slant_a.safetensors of family_a" in learnt.report.to_markdown()


def test_output_teaches_the_teachers_own_answer(lab):
    target, teacher = lab.model("s"), lab.teacher("frame_a")
    training_set = make_noisy_latents(lab.dataset(), target, "output", 8, 0, [teacher.base])
    set_target_predictions(training_set, teacher, target, "output", 1.0, 8, lambda *_: None)
    some = torch.arange(6)
    answer = teacher.adapted[0].predict(
        training_set.clean(some),
        training_set.noise(some),
        training_set.sigma[some],
        target.encode([training_set.prompts[i] for i in training_set.prompt_index[some]]),
    )
    assert torch.allclose(training_set.target_prediction[some], answer, atol=1e-5)
    assert training_set.evaluations == {"teacher": len(training_set), "target": len(training_set)}
    assert run(lab, chosen=settings(objective="output")).report.explained > 0


def test_output_of_several_adds_their_effects_to_the_source(lab):
    target, teacher = lab.model("s"), lab.teacher("frame_a", "slant_a")
    training_set = make_noisy_latents(lab.dataset(), target, "output", 8, 0, [teacher.base])
    set_target_predictions(training_set, teacher, target, "output", 1.0, 8, lambda *_: None)
    some = torch.arange(3)
    asked = (
        training_set.clean(some),
        training_set.noise(some),
        training_set.sigma[some],
        target.encode([training_set.prompts[i] for i in training_set.prompt_index[some]]),
    )
    one, two, base = (denoiser.predict(*asked) for denoiser in (*teacher.adapted, teacher.base))
    assert torch.allclose(training_set.target_prediction[some], one + two - base, atol=1e-5)


@pytest.mark.parametrize("objective", ["samples", "auto"])
def test_samples_between_two_latent_spaces(lab, objective):
    target, seen = lab.model("s", kind=Elsewhere), []

    def translate(latents):
        seen.append(latents)
        return 2 * latents

    dataset = lab.dataset(None)
    learnt = run(lab, target, dataset=dataset, chosen=settings(objective=objective), translate=translate)
    assert torch.equal(torch.cat(seen), torch.cat([dataset.taught, dataset.plain])), "the pictures and the control set"
    assert learnt.report.objective == "samples" and not learnt.report.measured
    assert len(learnt.adapter.modules) == 15
    assert {module.rank for module in learnt.adapter.modules.values()} == {4}, "the control student stays behind"
    assert any(module.delta().any() for module in learnt.adapter.modules.values())
    assert "from pictures" in learnt.report.summary()


def test_samples_within_one_space_needs_no_translation(lab):
    learnt = run(lab, chosen=settings(objective="samples"))
    assert learnt.report.objective == "samples" and learnt.report.evaluations.get("teacher", 0) == 0


def test_samples_without_a_vae(lab):
    with pytest.raises(SettingsError, match="a VAE is missing") as caught:
        run(lab, lab.model("s", kind=Elsewhere), dataset=lab.dataset(None))
    assert "the source's VAE and the target's VAE" in caught.value.hint


@pytest.mark.parametrize("objective", ["difference", "output"])
def test_two_latent_spaces_are_named(lab, objective):
    with pytest.raises(SettingsError, match="family_a has family and another family has elsewhere") as caught:
        choose(objective, lab.model("a"), lab.model("s", kind=Elsewhere))
    assert "samples" in caught.value.hint


def test_other_number_of_channels(lab):
    dataset = lab.dataset()
    target = lab.model("s")
    target.channels = 4
    with pytest.raises(SettingsError, match="16 channels, those of family_s 4"):
        run(lab, target, dataset=dataset)


def test_every_evaluation_is_counted(lab):
    target = lab.model("s", kind=Counting)
    teacher = Teacher(lab.model("a", kind=Counting), [lab.model("a", "frame_a", kind=Counting)])
    learnt = run(lab, target, teacher=teacher)
    counted, count = learnt.report.evaluations, 16 + HELD_OUT
    assert counted["teacher"] == teacher.base.asked + teacher.adapted[0].asked == 2 * count
    assert counted["target"] + counted["student"] == target.asked
    assert counted["target"] == count
    assert counted["student"] == 3 * 16 + 4 * HELD_OUT
    assert counted["data"] == 10 * 2 * 48, "steps × both sides of guidance × pictures"
    assert f"{sum(counted.values())} (teacher {2 * count}," in learnt.report.to_markdown()


def test_scaled_to_the_effect_on_the_source(lab):
    plain, matched = run(lab), run(lab, chosen=settings(match_effect=True))
    strength = float(re.search(r"Scaled by ([\d.]+)", matched.report.to_markdown())[1])
    assert strength > 1.05, "three steps teach too little"
    for key, module in plain.adapter.modules.items():
        assert torch.allclose(matched.adapter.modules[key].delta(), strength * module.delta(), rtol=1e-2, atol=1e-7)
    assert matched.report.checks == plain.report.checks
    assert matched.report.evaluations == plain.report.evaluations | {"matching": 2 * 8 * 20}


def test_dora_refuses_to_be_scaled():
    with pytest.raises(SettingsError, match="DoRA cannot be scaled") as caught:
        Distillation(kind="dora", match_effect=True)
    assert "match_effect off" in caught.value.hint


def test_matching_needs_pictures_of_the_target_and_says_so_before_anything_is_learnt(lab):
    with pytest.raises(SettingsError, match="the dataset has none"):
        run(lab, dataset=lab.dataset(None), chosen=settings(match_effect=True), progress=lambda *_: pytest.fail())


def test_broken_off_while_matching_the_effect_the_adapter_is_salvaged(lab):
    saved = []

    def progress(done, total, label):
        if "draws" in label:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lab, chosen=settings(match_effect=True), progress=progress, salvage=lambda *given: saved.append(given))
    [(adapter, step)] = saved
    assert step == 3 and all(
        torch.equal(module.delta(), run(lab).adapter.modules[key].delta())
        for key, module in list(adapter.modules.items())[:1]
    )


@pytest.mark.parametrize("wrong", [{"objective": "best"}, {"kind": "qlora"}, {"rank": 0}, {"noisy_latents": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingsError):
        Distillation(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"accumulation": 0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"schedule": "zigzag"},
    ],
)
def test_training_out_of_range(wrong):
    with pytest.raises(SettingsError):
        Training(**wrong)


def test_a_text_encoder_is_named_in_the_report(lab):
    """What an adapter does to the text encoder reaches the student through the teacher's answers only."""
    frame = lab.family.adapter("frame_a")
    key = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    wider = frame.with_modules({**frame.modules, key: next(iter(frame.modules.values())).renamed(key)})
    for adapter, named in ((wider, True), (frame, False)):
        learnt = distill(
            lab.dataset(),
            lab.teacher("frame_a"),
            lab.model("s"),
            [adapter],
            settings(Training(1, batch=8, accumulation=1)),
        )
        assert ("text encoder" in learnt.report.to_markdown()) == named
