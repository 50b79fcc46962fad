"""The learning loop: an adapter fitted to prompts with answers, resumable at any step.

Everything random comes from (seed, step) and a checkpoint holds the rest, so that a run that was broken off and went
on ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import SettingsError
from ..jobs.distill.schedule import Training, batch_indices, parameter_groups, share_of_peak
from ..jobs.distill.train import CLIP, MOMENTS, Keeper, State
from ..jobs.progress import Progress
from .goals import Loss, mean_loss
from .texts import Pair

BETAS = (0.9, 0.99)
PEAK, MOST = 1.3, 0.01  # see chosen_rate


def chosen_rate(width: int, settings: Training) -> float:
    """The highest rate: as set, or 1.3/width, at most 0.01: 3e-4 in a model 4,096 wide, as is usual for LoRA."""
    return settings.learning_rate or min(MOST, PEAK / width)


@dataclass
class Learnt:
    """losses: by step, per token. checks: (step, share of the held-out loss that is gone). best: step of the result.

    trouble: why it stopped early, or empty. tokens: read in forward passes of the student.
    """

    losses: list[float]
    checks: list[tuple[int, float]]
    best: int
    rate: float
    resumed: int
    trouble: str
    tokens: int
    reference: float


def learn(
    parameters: Mapping[str, nn.Parameter],
    loss: Loss,
    pairs: list[Pair],
    held: list[Pair],
    settings: Training,
    rate: float,
    *,
    keeper: Keeper | None = None,
    tell: Progress,
    salvage: Callable[[int], None] | None = None,
) -> Learnt:
    """Fit the parameters in place; at the end they hold the values that did best on the held-out pairs.

    Args:
        loss: of some pairs, summed over tokens, and the number of tokens.
        held: pairs that are only measured with.
        salvage: called with the step when anything ends the run early; the parameters then hold the best so far.

    Raises:
        SettingsError: the loss is NaN or Inf before anything was learnt.
    """
    run = _Run(parameters, loss, pairs, held, settings, rate)
    trouble, state = "", run.state
    resumed = run.resume(keeper.load() if keeper else None)
    try:
        while state.step < settings.steps and not trouble:
            tell(state.step, settings.steps, run.label())
            trouble = run.step()
            if keeper and keeper.every and not trouble and state.step % keeper.every == 0:
                keeper.save(run.snapshot())
        tell(state.step, settings.steps, run.label())
    except BaseException:
        if keeper and state.step > resumed and run.whole:
            keeper.save(run.snapshot())
        if salvage and state.step and len(state.checks) > 1:
            run.settle()
            salvage(state.step)
        raise
    if keeper and state.step > resumed:
        keeper.save(run.snapshot())
    run.settle()
    best = max(state.checks, key=lambda check: (check[1], check[0]))[0]
    return Learnt(state.losses, state.checks, best, rate, resumed, trouble, run.tokens(), state.reference or 0.0)


class _Run:
    def __init__(self, parameters, loss: Loss, pairs: list[Pair], held: list[Pair], settings: Training, rate: float):
        self.loss, self.pairs, self.held, self.settings = loss, pairs, held, settings
        self.optimizer = torch.optim.AdamW(
            parameter_groups(parameters.values(), rate), lr=rate, betas=BETAS, weight_decay=0.0
        )
        self.state = State(params=dict(parameters))
        self.every = max(1, min(10, settings.steps // 5))
        self.whole = True  # whether parameters, moments and the number of steps belong together

    def resume(self, found: State | None) -> int:
        """Take over a checkpoint, or make the first check; the step it goes on from."""
        state = self.state
        if found is None or found.params.keys() != state.params.keys():
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
        total = 0.0
        for part in range(settings.accumulation):
            which = batch_indices(len(self.pairs), state.step * settings.accumulation + part, settings).tolist()
            error = self._mean([self.pairs[at] for at in which]) / settings.accumulation
            error.backward()
            total += float(error.detach())
        size = float(nn.utils.clip_grad_norm_(state.params.values(), CLIP))
        if not (math.isfinite(total) and math.isfinite(size)):
            return self.broken(total)
        self.whole = False
        self.optimizer.step()
        state.losses.append(total)
        state.step += 1
        self.whole = True
        self.optimizer.zero_grad(set_to_none=True)
        if self.due():
            self.check()
        return ""

    def _mean(self, pairs: list[Pair]) -> torch.Tensor:
        found, count = self.loss(pairs)
        return found / max(1, count)

    def tokens(self) -> int:
        """Tokens that the student read in this run and in those that it went on from."""
        sizes = [len(pair.prompt) + len(pair.answer) for pair in self.pairs]
        held = sum(len(pair.prompt) + len(pair.answer) for pair in self.held)
        passes = range(self.state.step * self.settings.accumulation)
        read = sum(sizes[at] for number in passes for at in batch_indices(len(sizes), number, self.settings).tolist())
        return read + held * len(self.state.checks)

    def due(self) -> bool:
        """Whether a check belongs to this step."""
        return self.state.step % self.every == 0 or self.state.step == self.settings.steps

    def check(self) -> None:
        """Measure on the held-out pairs and keep the values that do best."""
        state, error = self.state, mean_loss(self.loss, self.held, self.settings.batch)
        if state.reference is None:
            state.reference = error
        gone = 1 - error / state.reference if state.reference > 0 else 0.0
        if not math.isfinite(gone):
            gone = -math.inf
        if not state.checks or gone >= max(value for _, value in state.checks):
            state.best = {name: value.detach().clone() for name, value in state.params.items()}
        state.checks.append((state.step, gone))

    def settle(self) -> None:
        """Leave the parameters with the best values."""
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
        return f"step {state.step}" + (f", loss {state.losses[-1]:.4f}" if state.losses else "")

    def broken(self, loss: float) -> str:
        hint = "Lower the learning rate, or compute in bf16 or fp32."
        if self.state.step == 0:
            raise SettingsError(f"The loss is {loss} in the first step", hint=hint)
        if self.state.checks[-1][0] < self.state.step:
            self.check()
        return (
            f"The loss became {loss} or its gradient infinite in step {self.state.step + 1}; "
            f"the best values before it are kept. {hint}"
        )
