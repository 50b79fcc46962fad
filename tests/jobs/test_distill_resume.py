"""Runs that break: what is kept, what goes on, and that it ends with the same bytes."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from lora_graft import adapters
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.io import safetensors
from lora_graft.jobs.distill import checkpoint, noisy_latents, schedule, train
from lora_graft.jobs.distill.checkpoint import FileKeeper, identity
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.kernels.distill.students import STUDENTS

Training = partial(schedule.Training, accumulation=1)


class Broken(Exception):
    """What a user's cancel is to a job."""


class Fragile(FamilyDenoiser):
    """Counts the predictions made while students are on it; `at` one of them something happens."""

    calls, at, how = 0, None, "raise"

    def predict(self, *given):
        answer = super().predict(*given)
        if self.students:
            self.calls += 1
            if self.at is not None and self.calls >= self.at:
                if self.how == "raise":
                    raise Broken
                if self.how != "nan once" or self.calls == self.at:
                    return answer * float(self.how.split()[0])
        return answer


@pytest.fixture
def few_held_out(monkeypatch):
    """Four noisy latents to measure with are enough where nothing is measured."""
    for module in (noisy_latents, train):
        monkeypatch.setattr(module, "HELD_OUT", 4)


@pytest.fixture
def go(lab, few_held_out):
    """Distil the frame onto base S: go(training, at=…, how=…, kind=…, **distill's own) → result."""

    def run(training, at=None, how="raise", kind="lora", **more):
        target = lab.model("s", kind=Fragile)
        target.at, target.how = at, how
        result = distill(
            lab.dataset(),
            lab.teacher("frame_a"),
            target,
            [lab.family.adapter("frame_a")],
            Distillation(rank=3, noisy_latents=12, kind=kind, training=training),
            **more,
        )
        return result, target.calls

    return run


def stopping(step):
    def progress(done, total, label):
        if label.startswith("step") and done == step:
            raise Broken

    return progress


def keeper_of(folder, every=0):
    return FileKeeper(folder / "checkpoints", identity("a run", 1), every)


def data(result, path):
    return adapters.write(result.adapter, path, provenance=result.provenance).read_bytes()


def same(one, other):
    assert one.adapter.digest == other.adapter.digest
    assert one.report.losses == other.report.losses and one.report.checks == other.report.checks


@pytest.mark.parametrize("kind", list(STUDENTS))
def test_resumed_ends_with_the_same_file(go, tmp_path, kind):
    training = Training(steps=3, batch=4, learning_rate=0.02)
    whole, _ = go(training, kind=kind)
    keeper = keeper_of(tmp_path)
    with pytest.raises(Broken):
        go(training, kind=kind, keeper=keeper, progress=stopping(2))
    again, _ = go(training, kind=kind, keeper=keeper_of(tmp_path))
    same(whole, again)
    assert data(whole, tmp_path / "whole.safetensors") == data(again, tmp_path / "again.safetensors")
    assert again.report.resumed == 2 and "went on from its step 2" in again.report.to_markdown()
    assert "went on" not in whole.report.to_markdown()


@pytest.mark.parametrize(
    ("every", "moments"),
    [
        (0, {1: 0, 3: 0, 4: 1, 6: 1, 13: 4}),  # without checkpoints but the one at the break
        (2, {5: 1, 10: 3, 11: 3}),
    ],
)
def test_broken_at_any_moment(go, tmp_path, every, moments):
    """In a step, in a step's second half, in a check (1, 4, 7, 10, 13): wherever a cancel may strike."""
    training = Training(steps=4, batch=4, accumulation=2, seed=9)
    whole, calls = go(training)
    assert calls == 13
    for at, resumed in moments.items():
        folder = tmp_path / str(at)
        with pytest.raises(Broken):
            go(training, at=at, keeper=keeper_of(folder, every))
        again, _ = go(training, keeper=keeper_of(folder, every))
        same(whole, again)
        assert again.report.resumed == resumed


def test_broken_twice(go, tmp_path):
    training = Training(steps=5, batch=4)
    whole, _ = go(training)
    for step in (1, 3):
        with pytest.raises(Broken):
            go(training, keeper=keeper_of(tmp_path), progress=stopping(step))
    same(whole, go(training, keeper=keeper_of(tmp_path))[0])


def test_checkpoints_are_written_now_and_then_and_survive_a_crash(go, tmp_path):
    training, seen = Training(steps=5, batch=4), []

    class Crash(FileKeeper):
        def save(self, state):
            super().save(state)
            seen.append(state.step)

    keeper = Crash(tmp_path, identity("x"), 2)
    whole, _ = go(training, keeper=keeper)
    assert seen == [2, 4] and keeper.path.exists()
    again, _ = go(training, keeper=FileKeeper(tmp_path, identity("x"), 2))  # as if the machine had gone down
    assert again.report.resumed == 4
    same(whole, again)
    keeper.forget()
    assert not keeper.path.exists()
    keeper.forget()


def test_with_a_control_student_too(lab, few_held_out, tmp_path):
    def go(keeper=None, progress=None):
        return distill(
            lab.dataset(),
            lab.teacher("frame_a"),
            lab.model("s"),
            [lab.family.adapter("frame_a")],
            Distillation("samples", rank=3, noisy_latents=12, training=Training(4, batch=4)),
            keeper=keeper,
            progress=progress,
        )

    whole = go()
    with pytest.raises(Broken):
        go(keeper_of(tmp_path), stopping(2))
    same(whole, go(keeper_of(tmp_path)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no checkpoint at all, but long enough to be one"),
        lambda path: _publish(path, {"a": torch.zeros(1)}, {}),
        lambda path: _publish(path, {}, {checkpoint.KIND: "[1]"}),
        lambda path: _publish(path, {}, {checkpoint.KIND: json.dumps({"identity": identity("a run", 1)})}),
        lambda path: _without(path, "params"),
        lambda path: _without(path, "best"),
    ],
    ids=["cut off", "empty", "nonsense", "another file", "another form", "half of it", "no values", "no best values"],
)
def test_a_damaged_checkpoint_is_reported_and_ignored(go, tmp_path, damage):
    training = Training(steps=2, batch=4)
    with pytest.raises(Broken):
        go(training, keeper=keeper_of(tmp_path), progress=stopping(1))
    keeper = keeper_of(tmp_path)
    damage(keeper.path)
    again, _ = go(training, keeper=keeper)
    assert again.report.resumed == 0 and "could not be read" in keeper.trouble
    same(go(training)[0], again)


def _publish(path, tensors, metadata):
    safetensors.save(path, tensors, metadata, overwrite=True)


def _without(path, group):
    tensors, metadata, _ = safetensors.load(path)
    _publish(path, {key: tensor for key, tensor in tensors.items() if not key.startswith(group)}, metadata)


def test_a_checkpoint_of_another_run_is_left_alone(go, tmp_path):
    training = Training(steps=2, batch=4)
    with pytest.raises(Broken):
        go(training, keeper=keeper_of(tmp_path), progress=stopping(1))
    other = FileKeeper(tmp_path / "checkpoints", identity("a run", 2), 0)
    again, _ = go(training, keeper=other)
    assert again.report.resumed == 0 and not other.trouble and keeper_of(tmp_path).path.exists()
    renamed = FileKeeper(tmp_path / "checkpoints", identity("a run", 3), 0)
    keeper_of(tmp_path).path.rename(renamed.path)
    assert renamed.load() is None, "whatever the file is called"


def test_identity_tells_runs_apart():
    runs = [("a", 1), ("a", 2), ("b", 1), ("a", "1"), ("a", 1, None), (["a"], 1)]
    assert len({identity(*run) for run in runs}) == len(runs)
    assert identity({"x": 1, "y": 2}) == identity({"y": 2, "x": 1})


def test_a_full_disk_does_not_end_the_run(go, tmp_path, monkeypatch):
    training, keeper = Training(steps=3, batch=4), keeper_of(tmp_path, every=1)
    whole, _ = go(training)

    def full(path, tensors, metadata, *, overwrite):
        raise AdapterError("The file cannot be written: No space left on device", file=path)

    monkeypatch.setattr(safetensors, "save", full)
    result, _ = go(training, keeper=keeper)
    same(whole, result)
    assert "could not be written" in keeper.trouble and "No space left" in keeper.trouble
    assert not keeper.path.exists()
    with pytest.raises(Broken):  # and the reason for a break stays the reason
        go(training, keeper=keeper, progress=stopping(2))


def test_a_folder_that_cannot_be_made(go, tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    keeper = keeper_of(tmp_path, every=1)
    go(Training(steps=2, batch=4), keeper=keeper)
    assert "could not be written" in keeper.trouble


def test_what_was_reached_is_salvaged(go):
    training, saved = Training(steps=5, batch=4, learning_rate=0.01), []
    with pytest.raises(Broken):
        go(training, progress=stopping(3), salvage=lambda *given: saved.append(given))
    [(adapter, step)] = saved
    assert step == 3 and len(adapter.modules) == 15
    assert any(module.delta().any() for module in adapter.modules.values())
    best, _ = go(training)
    checks = dict(best.report.checks)
    if max(checks, key=checks.get) == 3:
        assert adapter.digest == best.adapter.digest


def test_the_salvaged_values_are_the_best_not_the_last(go):
    """A rate that ruins what was reached: the values of the best check since half of the steps are handed out."""
    training, saved = Training(steps=6, batch=4, learning_rate=1.0, schedule="constant"), []
    whole, _ = go(training)
    late = [share for step, share in whole.report.checks if step >= 3]
    assert 3 <= whole.report.best < 6 and late[-1] < whole.report.explained == max(late)
    assert f"The result is that of step {whole.report.best}" in whole.report.to_markdown()
    with pytest.raises(Broken):
        go(training, progress=stopping(5), salvage=lambda adapter, step: saved.append(adapter))
    assert saved[0].digest == whole.adapter.digest


def test_broken_off_before_the_second_check_the_last_values_are_salvaged(go):
    saved = []
    with pytest.raises(Broken):
        go(Training(steps=30, batch=4), progress=stopping(3), salvage=lambda adapter, step: saved.append(adapter))
    assert all(module.delta().any() for module in saved[0].modules.values())


@pytest.mark.parametrize("step", [None, 0])
def test_nothing_is_salvaged_before_anything_was_learnt(go, tmp_path, step):
    def progress(done, total, label):
        if step is None or label.startswith("step"):  # None: while the noisy latents are made
            raise Broken

    keeper = keeper_of(tmp_path)
    with pytest.raises(Broken):
        go(Training(steps=2, batch=4), progress=progress, keeper=keeper, salvage=lambda *_: pytest.fail())
    assert not keeper.path.exists()


@pytest.mark.parametrize("how", ["nan", "inf"])
def test_nan_in_the_first_step(go, tmp_path, how):
    with pytest.raises(SettingsError, match="in the first step") as caught:
        go(Training(steps=3, batch=4), at=2, how=how, keeper=keeper_of(tmp_path), salvage=lambda *_: pytest.fail())
    assert "learning rate" in caught.value.hint
    assert not keeper_of(tmp_path).path.exists()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_nan_later_keeps_the_last_good_values(go, accumulation):
    training = Training(steps=8, batch=4, accumulation=accumulation, learning_rate=0.01)
    good = []
    with pytest.raises(Broken):
        go(training, progress=stopping(3), salvage=lambda adapter, _: good.append(adapter))
    per_step = accumulation + 1  # and a check after every step
    result, _ = go(training, at=1 + 3 * per_step + accumulation, how="nan")
    assert result.report.steps == 3 and len(result.report.losses) == 3
    assert "became nan" in result.report.trouble and "in step 4" in result.report.trouble
    assert result.report.trouble in result.report.to_markdown()
    assert result.adapter.digest == good[0].digest
    assert all(module.delta().isfinite().all() for module in result.adapter.modules.values())


def test_nan_between_two_checks_keeps_what_came_before_it(go):
    result, _ = go(Training(steps=30, batch=4, learning_rate=0.01), at=5, how="nan once")  # a check, then three steps
    assert [step for step, _ in result.report.checks] == [0, 3] and result.report.best == 3
    assert "in step 4" in result.report.trouble
    assert all(module.delta().any() for module in result.adapter.modules.values())


def test_nan_in_a_check_only_is_no_best(go):
    """The values after the bad check are judged by the next one."""
    result, _ = go(Training(steps=3, batch=4, learning_rate=0.01), at=7, how="nan")  # the check after the last step
    assert result.report.best < 3 and torch.tensor(result.report.explained).isfinite()
    assert all(module.delta().isfinite().all() for module in result.adapter.modules.values())
    assert "nan" not in result.report.summary()


def test_a_model_that_answers_nan_is_named(lab):
    target = lab.model("s")
    target.weights = {name: weight * float("nan") for name, weight in target.weights.items()}
    with pytest.raises(SettingsError, match="family_s answers NaN") as caught:
        distill(
            lab.dataset(),
            lab.teacher("frame_a"),
            target,
            [lab.family.adapter("frame_a")],
            Distillation(rank=3, noisy_latents=8, training=Training(1, batch=4)),
        )
    assert "bf16" in caught.value.hint


def test_accumulated_halves_are_one_batch(go):
    whole, _ = go(Training(steps=1, batch=8))
    halves, _ = go(Training(steps=1, batch=4, accumulation=2))
    assert halves.report.losses == pytest.approx(whole.report.losses, rel=1e-5)
    assert halves.report.checks[-1][1] == pytest.approx(whole.report.checks[-1][1], rel=1e-3)
    assert whole.report.checks[-1][1] != 0
    for key, module in whole.adapter.modules.items():
        difference = (halves.adapter.modules[key].delta() - module.delta()).norm()
        assert difference <= 0.02 * module.delta().norm(), key  # the first step is the sign of each gradient


def test_what_looks_worse_than_nothing_is_still_what_was_learnt():
    """A student that overshoots and settles: its start and its first checks are no rivals of its last ones."""
    checks = [(0, 0.0), (10, -12.0), (20, -2.0), (40, -0.9), (60, -0.4), (80, -0.5)]
    assert train.kept_check(checks, 80) == 60
    assert train.kept_check(checks[:3], 80) == 20
    assert train.kept_check([(0, 0.0), (10, 0.2), (20, 0.1)], 80) == 10
    assert train.kept_check([*checks[:4], (80, -float("inf"))], 80) == 40
    assert train.kept_check(checks[:1], 80) == 0
