"""What a model answers: the teacher's lessons for the student, and the student's own to compare with."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError
from ..jobs.progress import Progress, silent
from .decode import Written, write
from .journal import Journal
from .settings import Example
from .texts import Format

FEWEST = 4  # answers from which something can be learnt


@dataclass(frozen=True)
class Answered:
    """examples: prompts with their answers. truncated: answers that were longer than the limit, left out. empty: those
    without a word, left out. tokens: read and written."""

    examples: list[Example]
    truncated: int
    empty: int
    tokens: int


def ask(
    form: Format,
    prompts: list[str],
    *,
    longest: int,
    stop: str = "",
    batch: int = 8,
    journal: Journal | None = None,
    tell: Progress = silent,
) -> list[Written]:
    """A model's likeliest answers to prompts, a batch at a time.

    journal: where a broken run goes on.
    """
    journal = journal or Journal(None, "", "")
    done = [Written(**one) for record in journal.records for one in record["answers"]]
    for start in range(len(done), len(prompts), batch):
        tell(start, len(prompts), "answers")
        asked = [form.prompt(prompt) for prompt in prompts[start : start + batch]]
        written = write(form.lm, asked, longest=longest, stop=stop)
        journal.add({"answers": [vars(one) for one in written]})
        done += written
    return done


def lessons(prompts: list[str], written: list[Written], *, longest: int) -> Answered:
    """The prompts whose answers came to an end, with these.

    Raises:
        SettingsError: too few did.
    """
    kept = [Example(p, w.text) for p, w in zip(prompts, written, strict=True) if w.ended and w.text]
    truncated = sum(not one.ended for one in written)
    empty = sum(one.ended and not one.text for one in written)
    if len(kept) < FEWEST:
        what = f"{truncated} of {len(written)} answers of the source are longer than {longest} tokens"
        if truncated < empty:
            what = f"{empty} of {len(written)} answers of the source are empty"
        raise SettingsError(
            f"{what}, and {len(kept)} are left to learn from",
            hint="Raise --max-new-tokens, name the text that ends an answer (--stop), and check that the adapter "
            "belongs to this source and was trained on prompts of this form.",
        )
    return Answered(kept, truncated, empty, sum(one.tokens for one in written))


def agreement(written: list[Written], wanted: list[Example]) -> float:
    """Share of the answers that are the wanted ones, white space at both ends apart."""
    same = [one.text.strip() == example.answer.strip() for one, example in zip(written, wanted, strict=True)]
    return sum(same) / len(same) if same else 0.0
