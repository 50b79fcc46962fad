"""What to teach from, and how: the settings of Trans-LoRA on text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import choices
from ..errors import SettingsError
from ..jobs.distill.schedule import Training


@dataclass(frozen=True)
class Example:
    """A prompt and what is to be answered; an empty answer is one that nobody has given yet."""

    prompt: str
    answer: str = ""


@dataclass(frozen=True)
class TextData:
    """What to teach from.

    seeds: a few examples of the task, five in the paper. The generator is shown them.
    prompts: to ask the teacher, instead of a generator's.
    pairs: prompts with their answers, which are learnt as they are; no teacher is asked (training on real data).
    generator: a causal language model's folder; None for the target without an adapter, as in the paper.
    discriminator: a folder that :func:`.discriminator.fit` wrote; None takes prompts unfiltered.
    samples: prompts wanted.
    seed: of everything random in the generator.
    temperature: of its sampling.
    attempts: prompts generated at most, for each one that is wanted.
    least_likeness: what the discriminator must give a prompt; 0.5 in the paper.
    guard_share: of what is learnt, the share that the target writes by itself, so that it keeps what it knows; 0 in
        the paper. None for a half.

    Raises:
        SettingsError: a value out of range, or nothing to take prompts from.
    """

    seeds: Sequence[Example] = ()
    prompts: Sequence[str] = ()
    pairs: Sequence[Example] = ()
    generator: Path | None = None
    discriminator: Path | None = None
    samples: int = choices.Text.samples
    seed: int = choices.Distill.seed
    temperature: float = choices.Text.temperature
    attempts: int = choices.Text.attempts
    least_likeness: float = choices.Text.least_likeness
    guard_share: float | None = choices.Text.guard_share

    def __post_init__(self) -> None:
        for name in ("samples", "attempts"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.guarded < 1:
            raise SettingsError(f"the share of guard texts must be from 0 up to 1, and not 1, got {self.guarded}")
        if not self.temperature > 0:
            raise SettingsError(f"the temperature must be above 0, got {self.temperature}")
        if not (self.seeds or self.prompts or self.pairs):
            raise SettingsError(
                "There is nothing to make prompts from", hint="Give a few examples of the task (--seeds), or --prompts."
            )

    @property
    def guarded(self) -> float:
        """The share of guard texts that is taken."""
        return choices.Text.guard_share_text if self.guard_share is None else self.guard_share


@dataclass(frozen=True)
class TextDistillation:
    """How to teach.

    objective: "answers" (cross-entropy on the teacher's answers, as printed), "difference" (the target's own logits
        and what the adapter adds to the source's; one tokenizer), or "auto", which is "answers".
    kind: of the student: "lora", "dora" or "loha".
    alpha: None for alpha = rank.
    modules: "auto" for layers named as those that the adapter changes, "linear" for every linear layer but the head.
    start_from: "none", or "copy" for the adapter itself, where it fits the target.
    effect: λ, the factor on the logits' difference.
    max_new_tokens: of an answer; longer ones are left out.
    stop: text at which an answer ends beside the tokenizer's end of text.
    chat: put prompts into the tokenizer's chat template.

    Raises:
        SettingsError: an unknown word, or a value out of range.
    """

    objective: str = choices.Text.objective
    kind: str = choices.Text.kind
    rank: int = choices.Distill.rank
    alpha: float | None = choices.Distill.alpha
    modules: str = choices.Text.modules
    start_from: str = choices.Text.start_from
    effect: float = choices.Distill.effect
    max_new_tokens: int = choices.Text.max_new_tokens
    stop: str = choices.Text.stop
    chat: bool = choices.Text.chat
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        for name, words in (
            ("objective", choices.Text.objectives),
            ("kind", choices.Text.kinds),
            ("modules", choices.Text.module_sets),
            ("start_from", choices.Text.starts),
        ):
            if getattr(self, name) not in words:
                raise SettingsError(
                    f"unknown {name} {getattr(self, name)!r} for a language model", hint=f"Choose {', '.join(words)}."
                )
        for name in ("rank", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def words(self) -> str:
        """The objective that is followed."""
        return "answers" if self.objective == "auto" else self.objective

    def stored(self) -> dict[str, object]:
        """As files name these settings."""
        return {**asdict(self), "objective": self.words}
