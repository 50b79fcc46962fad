"""What a new adapter does to pictures that the LoRAs are not for: measured on guard prompts, and said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from lora_graft.adapters import Adapter
from lora_graft.errors import SettingsError
from lora_graft.family import text
from lora_graft.jobs.distill.dataset import Dataset
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.distill.side_effects import moved, watch, watched_prompts

STARS = [text.concept_prompt(colour) for colour in range(4)]


def dataset_of(prompts, **info):
    count = len(prompts)
    latents = torch.zeros(count, 1, 2, 2)
    return Dataset(
        prompts, latents, latents, None, torch.ones(count), torch.ones(count).bool(), None, {"seed": 0} | info
    )


def adapter(tags, images=None):
    metadata = {"ss_tag_frequency": json.dumps({"x": tags})}
    if images:
        metadata["ss_dataset_dirs"] = json.dumps({"x": {"img_count": images}})
    return Adapter({}, metadata=metadata)


def test_moved_is_in_units_of_the_distance_to_other_pictures():
    before = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [50.0, 50.0]])
    after = before + torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -2.0], [0.0, 7.0]])
    found = moved(after, before)
    assert found[0] == pytest.approx(0.5), "the strange fourth picture must not stretch the unit"
    assert found[1] == 0 and found[2] == pytest.approx(0.5**0.5) and found[3] < 0.15
    alone = moved(torch.tensor([[3.0, 8.0]]), torch.tensor([[3.0, 4.0]]))
    assert alone.item() == pytest.approx(4 / (5 * 2**0.5))


def test_watched_prompts_have_no_trigger_and_are_new_where_they_can_be():
    lora = adapter({"sks": 20, "red": 9, "blue": 8, "hat": 3}, images=20)
    drawn = dataset_of(["sks, red", "sks, on a table", "red, blue"])
    lines = watched_prompts(drawn, [lora], 8)
    assert len(lines) == len(set(lines)) == 8 and not any("sks" in line for line in lines)
    assert "on a table" in lines and not set(lines) & set(drawn.prompts)
    assert watched_prompts(drawn, [lora], 8) == lines


@pytest.fixture(scope="module")
def learnt(lab):
    """learnt(lora, start, **settings): a student of `lora`'s concept that begins as another LoRA and hardly learns."""
    from lora_graft.jobs.distill.denoiser import Drawing
    from lora_graft.jobs.distill.generate import Generation, generate

    lab.files |= {f"family_{name}": lab.family.path(name) for name in ("star_a", "star_s")}
    drawing = Drawing(64, 64, steps=6, cfg=3.0)
    data = generate(lab.teacher("star_a"), lab.model("s"), STARS, Generation(16, drawing=drawing))
    how = Training(steps=1, learning_rate=1e-9, batch=8, accumulation=1)

    def run(start, **more):
        chosen = Distillation(rank=8, noisy_latents=8, training=how, **more)
        begin = lab.family.adapter(start) if start else None
        return distill(
            data, lab.teacher("star_a"), lab.model("s"), [lab.family.adapter("star_a")], chosen, warm_start=begin
        )

    run.data = data
    return run


def test_an_adapter_that_changes_what_the_lora_leaves_alone_is_told(learnt):
    report = learnt("frame_s").report
    assert report.spilled > 0.12 and len(report.guards) == 8
    digits = [row for row in report.guards if "digit" in row[0]]
    assert digits and all(taught < new for _, taught, new in digits), (
        "a star's LoRA leaves digits alone, a frame does not"
    )
    written = report.to_markdown()
    assert "also changes pictures that the LoRA leaves alone" in written and "guard_share" in written
    assert "| guard prompt | moved by the LoRA | moved by the new adapter |" in written
    assert report.to_dict()["totals"]["spilled"] == report.spilled


def test_one_that_does_nothing_has_no_side_effects_and_the_lora_is_measured_by_itself(learnt, lab):
    made = learnt(None)
    assert made.report.spilled == pytest.approx(0, abs=1e-3)
    assert "what the LoRA leaves alone is left alone" in made.report.to_markdown()
    aside = made.side_effects
    assert torch.allclose(aside.before, aside.after, atol=1e-3)
    assert aside.taught.tolist() == [taught for _, taught, _ in made.report.guards]
    seen = watch(lab.teacher("star_a"), learnt.data, [*STARS, "red digit two", "blue digit six"], lambda *_: None)
    assert seen.taught[:4].min() > 2 * seen.taught[4:].max(), "it acts on stars"
    assert seen.drawing == replace(seen.drawing, steps=3) and seen.evaluations == 2 * 6 * 6


def test_evaluations_are_counted_and_none_are_spent_where_none_is_asked(learnt):
    spent = learnt(None, guards=3).report.evaluations
    assert spent.pop("guard prompts") == 4 * 3 * 3 * 2, "models × prompts × steps × both sides of guidance"
    assert spent.pop("pictures") == 4 * 6 * 2, "pictures × steps × both sides of guidance"
    without = learnt(None, guards=0)
    assert without.report.evaluations == spent and without.side_effects is None and without.report.spilled is None
    assert "guard prompt" not in without.report.to_markdown()


def test_pictures_tell_how_much_of_the_effect_arrived(learnt):
    """An adapter trained on the target itself moves its stars as far as A's LoRA does; one that is empty none."""
    own, nothing = learnt("star_s").report, learnt(None).report
    assert own.shown == pytest.approx(1, abs=0.4) and nothing.shown == pytest.approx(0, abs=1e-3)
    assert len(own.pictures) == 4 == len({line for line, *_ in own.pictures})
    assert max(taught for _, taught, _ in own.pictures) == learnt.data.acts[:8].max()
    assert "prompts on which the LoRA acts most" in own.to_markdown()
    assert "| prompt | moved by the LoRA | moved by the new adapter |" in own.to_markdown()
    assert "Little was learnt" in nothing.advice()


def test_a_share_that_says_little_is_told_as_such(learnt):
    report = learnt(None).report
    taught = [(line, far, 0.9 * far) for line, far, _ in report.pictures]
    assert "no measure here" in replace(report, pictures=taught).advice()
    assert "cannot be told from this share" in replace(report, pictures=[]).advice()
    uneven = replace(report, pictures=taught, spread=40.0).to_markdown()
    assert "90 % as far" in uneven and "acts 40 times as strongly on some prompts" in uneven
    sure = replace(report, pictures=taught, checks=[(report.best, 0.97)])
    assert "draws as well as training on real data" in sure.advice()
    few = replace(sure, spread=40.0).advice()
    assert "Only pictures can tell" in few and f"Draw {sure.strongest} with both bases" in few
    still = [(line, far, 0.1 * far) for line, far, _ in report.pictures]
    assert "Little was learnt" in replace(report, pictures=still, spread=40.0).advice()


def test_scaled_adapters_are_watched_as_they_are_written(learnt):
    plain, scaled = learnt("star_s"), learnt("star_s", match_effect=True)
    strength = scaled.adapter.modules and next(
        (scaled.adapter.modules[key].delta().norm() / module.delta().norm()).item()
        for key, module in plain.adapter.modules.items()
    )
    assert abs(strength - 1) > 0.02
    assert not torch.allclose(plain.side_effects.after, scaled.side_effects.after, atol=1e-3)


def test_a_negative_number_is_refused():
    with pytest.raises(SettingsError, match="must not be negative, got -1"):
        Distillation(guards=-1)
