"""The learning loop: students fitted to a training set of noisy latents, resumable at any step.

Everything random comes from (seed, step) and a checkpoint holds the rest, so that a run that was broken off and went
on ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...errors import SettingsError
from ...kernels.distill.levels import squared_error
from ...kernels.distill.students import Change, Student
from ..progress import Progress, silent
from .denoiser import Denoiser, Trainee
from .noisy_latents import HELD_OUT, NoisyLatents
from .schedule import Training, batch_indices, learning_rate, parameter_groups, share_of_peak

BETAS, CLIP = (0.9, 0.98), 1.0
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class State:
    """Where a run is: what a checkpoint holds.

    params, moments: by name. best: the params of the check that :func:`kept_check` names.
    losses: by step. checks: (step, share of the effect explained on the held-out noisy latents).
    reference: error on the held-out noisy latents that counts as nothing explained.
    """

    step: int = 0
    params: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    checks: list[tuple[int, float]] = field(default_factory=list)
    reference: float | None = None


class Keeper(Protocol):
    """Where checkpoints live. every: steps between two of them; 0 for none but the one at a break."""

    every: int

    def load(self) -> State | None: ...

    def save(self, state: State) -> None: ...


@dataclass
class Trained:
    """losses, checks: as in State. step: of the result. resumed: the step a checkpoint went on from.

    trouble: why it stopped early, or empty. evaluations: forward passes per sample, of learning and of checking.
    """

    losses: list[float]
    checks: list[tuple[int, float]]
    step: int
    learning_rate: float
    resumed: int
    trouble: str
    evaluations: int


class Together:
    """A student with a second one beside it that learns the source's look; `both` says whether the first takes part."""

    def __init__(self, main: Student, control: Student):
        self.main, self.control, self.both = main, control, True

    def change(self) -> Change:
        look = self.control.change()
        if not self.both:
            return look
        own = self.main.change()
        return Change(torch.cat([own.up, look.up], 1), torch.cat([own.down, look.down]), own.gain)


def train(
    denoiser: Denoiser,
    students: Mapping[str, Student],
    training_set: NoisyLatents,
    settings: Training,
    *,
    controls: Mapping[str, Student] | None = None,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    show: Callable[[Tensor], None] | None = None,
) -> Trained:
    """Fit the students in place; at the end they hold the values of the check that :func:`kept_check` names.

    Args:
        controls: students of the source's look, for training sets with control latents; not part of the result.
        keeper: resumes a broken run, saves now and then, and when anything ends the run early.
        progress: called before each step; may raise to stop. The students then hold the best values so far.
        show: given x̂₀ (1, …) of one held-out latent at every check, for a preview.

    Raises:
        SettingsError: the loss is NaN or Inf before anything was learnt.
    """
    run = _Run(denoiser, students, training_set, settings, controls or {}, show)
    tell = progress or silent
    with run.ready():
        resumed = run.resume(keeper.load() if keeper else None)
        trouble = ""
        broken = True
        try:
            while run.state.step < settings.steps and not trouble:
                tell(run.state.step, settings.steps, run.label())
                trouble = run.step()
                done = run.state.step
                if keeper and keeper.every and not trouble and done % keeper.every == 0 and done < settings.steps:
                    keeper.save(run.snapshot())
            tell(run.state.step, settings.steps, run.label())
            broken = False
        except BaseException:
            if keeper and run.state.step:
                keeper.save(run.snapshot())
            raise
        finally:
            run.settle(broken)
    state = run.state
    best = kept_check(state.checks, settings.steps)
    return Trained(state.losses, state.checks, best, run.rate, resumed, trouble, run.evaluations)


def kept_check(checks: Sequence[tuple[int, float]], steps: int) -> int:
    """The step of the check whose values a run hands out: the best since half of its steps, before that the best but
    the start.

    While the rate is high a student overshoots, and what only some prompts set off looks worse then than nothing
    learnt, though it is nearly there; only late checks can be compared.
    """
    learnt = [check for check in checks if check[0] and math.isfinite(check[1])]
    late = [check for check in learnt if 2 * check[0] >= steps]
    return max(late or learnt or checks, key=lambda check: (check[1], check[0]))[0]


class _Run:
    def __init__(
        self,
        denoiser: Denoiser,
        students: Mapping[str, Student],
        training_set: NoisyLatents,
        settings: Training,
        controls: Mapping[str, Student],
        show: Callable[[Tensor], None] | None,
    ):
        self.show = show
        self.denoiser, self.training_set, self.settings = denoiser, training_set, settings
        named, sizes = {}, []
        for owner, mark in ((students, ""), (controls, "control|")):
            params = {f"{name}|{mark}{part}": t for name, one in owner.items() for part, t in one.params.items()}
            sizes += parameter_groups(params.values(), learning_rate(owner.values(), settings)) if owner else []
            named |= params
        self.pairs = [Together(students[name], controls[name]) for name in students] if controls else []
        self.shown: Mapping[str, Trainee] = dict(zip(students, self.pairs, strict=True)) if controls else students
        self.rate = learning_rate(students.values(), settings)
        self.optimizer = torch.optim.AdamW(sizes, lr=self.rate, betas=BETAS, weight_decay=0.0)
        self.state = State(params=named)
        self.conditions = denoiser.encode(training_set.prompts)
        self.learnt = len(training_set) - HELD_OUT
        self.every = max(1, min(10, settings.steps // 5))
        self.evaluations = 0

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The model in place with the students on it."""
        shape = (self.settings.batch, *self.training_set.latents.shape[1:])
        with self.denoiser.loaded(shape), self.denoiser.training(self.shown, checkpointing=self.settings.checkpointing):
            yield

    def resume(self, found: State | None) -> int:
        """Take over a checkpoint, or make the first check; the step it goes on from."""
        state, training_set = self.state, self.training_set
        if found is None:
            held = torch.arange(self.learnt, len(training_set))
            if training_set.base_prediction is not None:
                state.reference = float(
                    squared_error(
                        training_set.base_prediction[held],
                        training_set.target_prediction[held],
                        training_set.sigma[held],
                    ).mean()
                )
            self.check()
            return 0
        with torch.no_grad():
            for name, value in state.params.items():
                value.copy_(found.params[name])
                kept = {part: found.moments[f"{name}|{part}"] for part in MOMENTS if f"{name}|{part}" in found.moments}
                if kept:
                    self.optimizer.state[value] = {p: t if p == "step" else t.to(value) for p, t in kept.items()}
        state.step, state.losses, state.checks = found.step, list(found.losses), list(found.checks)
        state.best = {name: value.to(state.params[name].device) for name, value in found.best.items()}
        state.reference = found.reference
        if self.due() and state.checks[-1][0] < state.step:  # broken off within the check
            self.check()
        return found.step

    def step(self) -> str:
        """One step; words on what broke, or nothing."""
        state, settings = self.state, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak(state.step, settings)
        loss = 0.0
        for part in range(settings.accumulation):
            which = batch_indices(self.learnt, state.step * settings.accumulation + part, settings)
            error = self.errors(which).mean() / settings.accumulation
            error.backward()
            loss += float(error.detach())
        size = float(torch.nn.utils.clip_grad_norm_(state.params.values(), CLIP))
        if not (math.isfinite(loss) and math.isfinite(size)):
            return self.broken(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.losses.append(loss)
        state.step += 1
        if self.due():
            self.check()
        return ""

    def due(self) -> bool:
        """Whether a check belongs to this step."""
        return self.state.step % self.every == 0 or self.state.step == self.settings.steps

    def check(self) -> None:
        """Measure on the held-out noisy latents and keep the values if they are those to keep so far."""
        state = self.state
        with torch.no_grad():
            held = torch.arange(self.learnt, len(self.training_set)).split(self.settings.batch)
            error = float(torch.cat([self.errors(which) for which in held]).mean())
        if state.reference is None:
            state.reference = error
        explained = 1 - error / state.reference if state.reference > 0 else 0.0
        state.checks.append((state.step, explained if math.isfinite(explained) else -math.inf))
        if kept_check(state.checks, self.settings.steps) == state.step:
            for name, value in state.params.items():
                state.best.setdefault(name, torch.empty_like(value, requires_grad=False)).copy_(value.detach())

    def errors(self, which: Tensor) -> Tensor:
        """(n,) squared errors of some noisy latents; those on the source's look without the main students."""
        control = self.training_set.control
        if not self.pairs or control is None:
            return self._errors(which)
        found = []
        for both in (True, False):
            part = which[control[which] != both]
            for pair in self.pairs:
                pair.both = both
            found += [self._errors(part)] if len(part) else []
        return torch.cat(found)

    def _errors(self, which: Tensor) -> Tensor:
        training_set = self.training_set
        conditioning = [self.conditions[i] for i in training_set.prompt_index[which]]
        prediction = self.denoiser.predict(
            training_set.clean(which), training_set.noise(which), training_set.sigma[which], conditioning
        )
        self.evaluations += len(which)
        if self.show is not None and int(which[0]) == self.learnt:
            self.show(prediction[:1].detach())
        return squared_error(
            prediction,
            training_set.target_prediction[which].to(prediction.device),
            training_set.sigma[which].to(prediction.device),
        )

    def settle(self, broken: bool) -> None:
        """Leave the students with the best values; of a run broken off before its second check, with the last."""
        if broken and self.state.checks and self.state.checks[-1][0] == 0:
            return
        with torch.no_grad():
            for name, value in self.state.best.items():
                self.state.params[name].copy_(value)

    def snapshot(self) -> State:
        state, moments = self.state, {}
        for name, value in state.params.items():
            for part in MOMENTS:
                if part in self.optimizer.state.get(value, {}):
                    moments[f"{name}|{part}"] = self.optimizer.state[value][part].detach().clone()
        params = {name: value.detach().clone() for name, value in state.params.items()}
        return State(state.step, params, moments, state.best, list(state.losses), list(state.checks), state.reference)

    def label(self) -> str:
        state = self.state
        loss = f", loss {state.losses[-1]:.4f}" if state.losses else ""
        return f"step {state.step}{loss}, {max(0.0, state.checks[-1][1]):.0%} of the effect"

    def broken(self, loss: float) -> str:
        hint = "Lower the learning rate, or train in bf16 or fp32."
        if self.state.step == 0:
            raise SettingsError(f"The loss is {loss} in the first step", hint=hint)
        if self.state.checks[-1][0] < self.state.step:
            self.check()
        return (
            f"The loss became {loss} or its gradient infinite in step {self.state.step + 1}; "
            f"the best values before it are kept. {hint}"
        )
