"""What came of a distillation: sentences first, tables second."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, median

from ...untrusted import code
from ..text import ReportText, cell, joined, percent, table

GOOD, FAIR = 0.95, 0.75  # shares of the effect on held-out noisy latents; see benchmarks/RESULTS.md
SHOWN = 0.8  # of the LoRA's own movement of pictures; see benchmarks/RESULTS.md
UNEVEN = 5.0  # strongest over weakest action, from which the effect sits on few prompts
SPILLED = 0.12  # of the distance between pictures of unlike prompts, on average; see benchmarks/RESULTS.md


@dataclass
class DistillReport(ReportText):
    """effect: RMS of what was taught, relative to the target's own predictions. measured: whether `checks` are shares
    of the effect (with ``samples`` they are shares of the loss without an adapter). source: empty
    where pictures were learnt without a teacher. guards: (guard prompt, how far the LoRAs move its picture, how far
    the new adapter does), see side_effects.py; empty where that was not measured. effort: in words, empty where it was
    not said. pictures, spread: see effect.Shown; empty and 1 where there were none. seconds, evaluations: by phase.
    """

    source: str
    target: str
    adapters: list[str]
    objective: str
    reason: str
    kind: str
    rank: int
    where: str
    modules: int
    steps: int
    asked: int
    best: int
    losses: list[float]
    checks: list[tuple[int, float]]
    measured: bool
    effect: float
    learning_rate: float
    resumed: int
    trouble: str
    start: str
    evaluations: dict[str, int]
    samples: int
    guards: list[tuple[str, float, float]] = field(default_factory=list)
    effort: str = ""
    pictures: list[tuple[str, float, float]] = field(default_factory=list)
    spread: float = 1.0
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    job: str = "distill"

    @property
    def totals(self) -> dict:
        return {
            "explained": self.explained,
            "shown": self.shown,
            "spilled": self.spilled,
            "evaluations": sum(self.evaluations.values()),
            "seconds": sum(self.seconds.values()),
        }

    @property
    def explained(self) -> float:
        """Share of the effect that the adapter reproduces on noisy latents it did not learn from."""
        return dict(self.checks).get(self.best, 0.0)

    @property
    def shown(self) -> float | None:
        """How far the new adapter moves the target's pictures over how far the LoRAs move the source's, where these act
        most; None: not measured."""
        taught = sum(row[1] for row in self.pictures)
        return sum(row[2] for row in self.pictures) / taught if taught > 0 else None

    @property
    def strongest(self) -> str:
        """The prompt on which the LoRA acts most, as text of a report."""
        return code(max(self.pictures, key=lambda row: row[1])[0])

    @property
    def spilled(self) -> float | None:
        """By how much more than the LoRAs the new adapter moves pictures on guard prompts, mean; None: not measured."""
        return fmean(max(0.0, learnt - taught) for _, taught, learnt in self.guards) if self.guards else None

    def arrived(self) -> str:
        """How much of the effect finished pictures show, in plain words; empty where there were none."""
        if self.shown is None:
            return ""
        count = len(self.pictures)
        found = (
            f"In pictures of the {count} prompts on which the LoRA acts most, the new adapter moves the target "
            f"{percent(self.shown)} as far as the LoRA moves its own base"
        )
        if self.spread < UNEVEN:
            return f"{found}."
        return (
            f"{found}. The LoRA acts {self.spread:.0f} times as strongly on some prompts as on others, most of all on "
            f"{self.strongest}: the share on noisy latents then says little, and the prompts should name what sets the "
            "LoRA off."
        )

    def side_effects(self) -> str:
        """What the new adapter does to other pictures, in plain words; empty where that was not measured."""
        if self.spilled is None:
            return ""
        taught, learnt = median(row[1] for row in self.guards), median(row[2] for row in self.guards)
        found = (
            f"On {len(self.guards)} prompts without the trigger words the LoRA moves pictures by {taught:.2f}, the new "
            f"adapter by {learnt:.2f} (medians; 1 is the distance between pictures of unlike prompts)"
        )
        if self.spilled < SPILLED:
            return f"{found}: what the LoRA leaves alone is left alone."
        worst = max(self.guards, key=lambda row: row[2] - row[1])[0]
        return (
            f"{found}. **The new adapter also changes pictures that the LoRA leaves alone**, most of all for "
            f"{code(worst)}. Make the dataset again with more guard prompts (guard_share of Synthetic Prompts), and "
            "give Synthetic Prompts seed prompts with the trigger words."
        )

    def summary(self) -> str:
        """One sentence."""
        if not self.source:
            return (
                f"{self.samples} pictures were taught to {self.target} in {self.steps} steps; the error of the new "
                f"{self.kind} on noise it did not learn from fell by {percent(max(0.0, self.explained))}."
            )
        what = " and ".join(self.adapters)
        done = f"{what} of {self.source} was taught to {self.target} in {self.steps} steps"
        if self.measured:
            return (
                f"{done}; the new {self.kind} reproduces {percent(max(0.0, self.explained))} of the effect on "
                "noisy latents it did not learn from."
            )
        return f"{done} from pictures; its error on held-out pictures fell by {percent(max(0.0, self.explained))}."

    def advice(self) -> str:
        """What to do next, in plain words."""
        if self.trouble:
            return self.trouble
        if not self.source:
            return (
                "Part of that error is noise that nothing could foretell, so a few percent can be the whole effect: "
                "compare the pictures before and after. Too little of it: more steps. The same pictures again "
                "whatever the prompt: fewer steps, a lower rank or more pictures."
            )
        if not self.measured:
            return "Compare the pictures before and after; more steps and more samples make the effect surer."
        if self.explained < FAIR and self.shown is not None and self.shown >= SHOWN:
            return (
                "The share on noisy latents is no measure here, nor is it where only some prompts set the LoRA off. "
                "Pictures move as far as they should; look whether it is the effect that moves them."
            )
        if self.explained < FAIR and self.shown is None:
            return (
                "How much arrived cannot be told from this share: on the example models shares like this went with all "
                "of the effect and with none of it. Look at the pictures. If little is there, take a greater effort, "
                "or start from a transferred adapter if the bases are related."
            )
        if self.explained >= FAIR and self.spread >= UNEVEN and self.pictures:
            return (
                "Only pictures can tell whether it is there: what few prompts set off comes all or nothing, and on the "
                "example models a share like this went with a fifth of such pictures right. "
                f"Draw {self.strongest} with both bases. If it is missing and the two bases look alike, learn the "
                "source's answers as they are (objective output); if a plain copy shows it, keep the copy."
            )
        if self.explained >= GOOD:
            return (
                "On the example models a share like this draws as well as training on real data does. Look at the "
                "pictures, and set the strength to taste."
            )
        if self.explained >= FAIR:
            return (
                "The effect is there, but pictures may still suffer from it: twice the steps, a start from a "
                "transferred adapter, or a higher rank will make them cleaner."
            )
        return (
            "Little was learnt. Take a greater effort, start from a transferred adapter if the bases are related, and "
            "check that the LoRA acts on the samples (the dataset's report says how strongly)."
        )

    def to_markdown(self) -> str:
        lines = [self.summary(), *filter(None, [self.arrived(), self.side_effects()]), self.advice()]
        lines.append(f"Objective: {self.objective}. {self.reason} Weights: {self.where} Started from {self.start}.")
        spent = ", ".join(f"{name} {count}" for name, count in self.evaluations.items())
        times = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        effort = f"Effort: {self.effort}. " if self.effort else ""
        lines.append(
            f"{effort}Network evaluations (forward passes of one sample): {sum(self.evaluations.values())} ({spent}). "
            f"Time: {times}."
        )
        if self.resumed:
            lines.append(f"An earlier run was broken off; this one went on from its step {self.resumed}.")
        if self.best < self.steps:
            lines.append(
                f"The result is that of step {self.best}, the best of the second half on held-out noisy latents."
            )
        lines += self.notes
        rows = [
            [str(step), cell(share), cell(self.losses[step - 1] if 0 < step <= len(self.losses) else None)]
            for step, share in self.checks
        ]
        head = "share of the effect" if self.measured else "share of the error removed"
        lines.append(table(("step", head, "loss"), rows))
        facts = {
            "rank": self.rank,
            "weights": self.modules,
            "samples": self.samples,
            "learning rate": self.learning_rate,
            "size of the effect": self.effect,
        }
        lines.append(table(("setting", "value"), [[name, cell(value)] for name, value in facts.items()]))
        if self.pictures:
            rows = [[code(line), cell(taught), cell(learnt)] for line, taught, learnt in self.pictures]
            lines.append(table(("prompt", "moved by the LoRA", "moved by the new adapter"), rows))
        if self.guards:
            rows = [[code(line), cell(taught), cell(learnt)] for line, taught, learnt in self.guards]
            lines.append(table(("guard prompt", "moved by the LoRA", "moved by the new adapter"), rows))
        return joined(lines)
