"""What came of a distillation on text: sentences first, tables second."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..jobs.text import ReportText, cell, joined, percent, table

GOOD, FAIR = 0.9, 0.5  # shares of the held-out answers that are the teacher's
TOUCHED, FORGETS = 0.2, 1.0  # nats per token more on the target's own texts; see benchmarks/RESULTS.md
STILL_FALLING = 0.05  # of the held-out loss, over the last third of the steps


@dataclass
class TextReport(ReportText):
    """source: empty where answers of the user's own were learnt. prompts: where they came from, in words.

    samples: asked for. generated, duplicates, unusable, rejected, accepted: of the generator's prompts. truncated,
    empty: answers left out. learnt: answers learnt from. held_out: prompts with answers that were not.
    agreement_before, _after: share of them that the target alone, and with the new adapter, answers as the teacher
    does, to the letter. guards: texts of the target's own that were learnt. watched: others that were not, for which
    the target alone, and with the new adapter, has a loss of so many nats per token (own_before, _after). tokens: read
    and written by generator and teacher, read by the student. losses, checks, best:
    see learn.py. measured, explained: what a plot of the curve asks for.
    """

    source: str
    target: str
    adapter: str
    objective: str
    reason: str
    kind: str
    rank: int
    where: str
    modules: int
    start: str
    prompts: str
    samples: int
    generated: int
    duplicates: int
    unusable: int
    rejected: int
    accepted: int
    truncated: int
    empty: int
    learnt: int
    held_out: int
    guards: int
    watched: int
    own_before: float
    own_after: float
    agreement_before: float
    agreement_after: float
    tokens: dict[str, int]
    steps: int
    asked: int
    best: int
    losses: list[float]
    checks: list[tuple[int, float]]
    reference: float
    learning_rate: float
    resumed: int
    trouble: str
    scores: dict[str, float] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    measured: bool = False
    job: str = "distill text"

    @property
    def totals(self) -> dict:
        return {
            "agreement": self.agreement_after,
            "explained": self.explained,
            "tokens": sum(self.tokens.values()),
            "seconds": sum(self.seconds.values()),
        }

    @property
    def explained(self) -> float:
        """Share of the loss on held-out answers that is gone."""
        return max((share for _, share in self.checks), default=0.0)

    def figures(self) -> dict[str, float]:
        """The numbers alone."""
        names = (
            *("samples", "generated", "accepted", "duplicates", "unusable", "rejected", "truncated", "empty"),
            *("learnt", "held_out", "agreement_before", "agreement_after", "steps"),
        )
        found: dict[str, float] = {name: getattr(self, name) for name in names}
        found |= {f"{name}_tokens": count for name, count in self.tokens.items()}
        first, last = (self.losses[0], self.losses[-1]) if self.losses else (0.0, 0.0)
        found |= {name: getattr(self, name) for name in ("guards", "own_before", "own_after")}
        return found | {"loss_first": first, "loss_last": last, "seconds": sum(self.seconds.values())}

    def summary(self) -> str:
        """One sentence."""
        what = f"{self.adapter} of {self.source} was taught to" if self.source else "Examples were taught to"
        whose = "the teacher's answers" if self.source else "the given answers"
        return (
            f"{what} {self.target} from {self.learnt} answers in {self.steps} steps; the new {self.kind} gives "
            f"{percent(self.agreement_after)} of {whose} to {self.held_out} held-out prompts word for word, the target "
            f"alone {percent(self.agreement_before)}."
        )

    def advice(self) -> str:
        """What to do next, in plain words."""
        if self.trouble:
            return self.trouble
        if self.agreement_after >= GOOD:
            return (
                "On prompts like those it learnt from it answers as the teacher does. Try others of the task: on the "
                "text family such agreement went with a quarter to all of new prompts right, because a generator may "
                "not write all that the task asks. What the teacher gets wrong is learnt too."
            )
        last = [share for step, share in self.checks if step >= 2 * self.steps / 3]
        falling = len(last) > 1 and last[-1] - last[0] > STILL_FALLING * max(1e-9, 1 - last[0])
        more = "The held-out loss was still falling: give more steps." if falling else ""
        if self.agreement_after >= FAIR:
            return more or (
                "Most answers are the teacher's. More prompts (--samples) or a higher rank bring more; long answers "
                "rarely agree to the letter and may be as good."
            )
        return more or (
            "Few answers are the teacher's to the letter. Look at the examples below: where they are as good, nothing "
            "is wrong; else give more prompts, a higher rank, or prompts nearer to the task (seeds, discriminator)."
        )

    def side_effects(self) -> str:
        """What becomes of everything else, in plain words."""
        if not self.watched:
            return ""
        measured = (
            f"On {self.watched} texts of the target's own, the target alone is off by {self.own_before:.2f} nats per "
            f"token, with the new adapter by {self.own_after:.2f}"
        )
        added = self.own_after - self.own_before
        if added <= TOUCHED:
            return f"{measured}: it leaves other prompts alone."
        more = "a larger --guard-share" if self.guards else "guard texts (--guard-share 0.5)"
        if added <= FORGETS:
            return f"{measured}: some answers to other prompts may change. Against that, {more}."
        return f"{measured}. Warning: the new adapter also changes answers to other prompts. Give {more}."

    def to_markdown(self) -> str:
        lines = [self.summary(), *filter(None, [self.side_effects()]), self.advice()]
        lines.append(f"Objective: {self.objective}. {self.reason} Layers: {self.where} Started from {self.start}.")
        lines.append(self.prompts)
        spent = ", ".join(f"{name} {count}" for name, count in self.tokens.items())
        times = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        lines.append(f"Tokens: {sum(self.tokens.values())} ({spent}). Time: {times}.")
        if self.resumed:
            lines.append(f"An earlier run was broken off; this one went on from its step {self.resumed}.")
        if self.best < self.steps:
            lines.append(f"The result is that of step {self.best}, which did best on the held-out answers.")
        lines += self.notes
        counts = {
            "prompts wanted": self.samples,
            "prompts generated": self.generated,
            "of them repeated": self.duplicates,
            "unusable": self.unusable,
            "rejected by the discriminator": self.rejected,
            "accepted": self.accepted,
            "answers left out as too long": self.truncated,
            "answers left out as empty": self.empty,
            "held out": self.held_out,
            "texts of the target's own, learnt beside": self.guards,
        }
        if self.scores:
            counts |= {f"{name} score": value for name, value in self.scores.items()}
        lines.append(table(("prompts and answers", "number"), [[name, cell(value)] for name, value in counts.items()]))
        rows = [[str(step), cell((1 - share) * self.reference), cell(self._loss(step))] for step, share in self.checks]
        lines.append(table(("step", "loss on held-out answers", "loss"), rows))
        facts = {"rank": self.rank, "modules": self.modules, "learning rate": self.learning_rate}
        lines.append(table(("setting", "value"), [[name, cell(value)] for name, value in facts.items()]))
        if self.examples:
            rows = [[f"`{text}`" if text else "–" for text in row] for row in self.examples]
            teacher = "the teacher's answer" if self.source else "the given answer"
            lines.append(table(("held-out prompt", teacher, "the new adapter's"), rows))
        return joined(lines)

    def _loss(self, step: int) -> float | None:
        return self.losses[step - 1] if 0 < step <= len(self.losses) else None
