"""What a model answers: the teacher's lessons for the student, and the student's own to compare with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import adapters as files
from ..adapters import Adapter
from ..errors import SettingsError
from ..jobs.distill.checkpoint import identity
from ..jobs.progress import Progress, silent
from .decode import Written, write
from .journal import Journal
from .models import LanguageModel, open_model, with_adapter
from .run import TextRun
from .settings import Example, TextDistillation
from .texts import Format

FEWEST = 4  # answers from which something can be learnt


@dataclass(frozen=True)
class Answered:
    """examples: prompts with their answers. truncated: answers that were longer than the limit, left out. empty: those
    without a word, left out. tokens: read and written. notes: what the user should know."""

    examples: list[Example]
    truncated: int
    empty: int
    tokens: int
    notes: list[str] = field(default_factory=list)


def ask(
    form: Format,
    prompts: list[str],
    settings: TextDistillation,
    *,
    journal: Journal | None = None,
    tell: Progress = silent,
) -> list[Written]:
    """A model's likeliest answers to prompts, a batch at a time.

    journal: where a broken run goes on.
    """
    journal = journal or Journal(None, "", "")
    batch = settings.training.batch
    done = [Written(**one) for record in journal.records for one in record["answers"]]
    for start in range(len(done), len(prompts), batch):
        tell(start, len(prompts), "answers")
        asked = [form.prompt(prompt) for prompt in prompts[start : start + batch]]
        written = write(form.lm, asked, longest=settings.max_new_tokens, stop=settings.stop)
        journal.add({"answers": [vars(one) for one in written]})
        done += written
    return done


def answered(
    form: Format, prompts: list[str], settings: TextDistillation, key: list, run: TextRun, tell: Progress
) -> Answered:
    """What a source with its adapter answers to prompts.

    Args:
        key: what decides the answers beside the settings; under it a broken run goes on.

    Raises:
        SettingsError: every prompt is too long, or too few answers came to an end.
    """
    longest, reads = settings.max_new_tokens, _context(form.lm)
    fitting = [prompt for prompt in prompts if len(form.prompt(prompt)) + longest <= reads]
    if not fitting:
        raise SettingsError(
            f"Every prompt is too long: with {longest} tokens for the answer none fits into the {reads} that "
            f"{form.lm.label} reads",
            hint="Give shorter prompts, or lower --max-new-tokens.",
        )
    how = [longest, settings.stop, settings.chat, settings.training.batch, str(form.lm.model.dtype)]
    journal = run.journal("answers", identity("answers", fitting, key, how))
    found = lessons(fitting, ask(form, fitting, settings, journal=journal, tell=tell), longest=longest)
    if journal.trouble:
        found.notes.append(journal.trouble)
    if len(fitting) < len(prompts):
        found.notes.append(f"{len(prompts) - len(fitting)} prompts were too long for the source and left out.")
    if found.truncated:
        found.notes.append(
            f"{found.truncated} answers were longer than {longest} tokens and were left out (--max-new-tokens)."
        )
    return found


def given(pairs: Sequence[Example], longest: int) -> Answered:
    """Answers that the user has, as lessons."""
    written = [Written(pair.answer, 0, True) for pair in pairs]
    return lessons([pair.prompt for pair in pairs], written, longest=longest)


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


def answer(
    model: Path,
    prompts: list[str],
    adapter: Path | Adapter | None = None,
    *,
    settings: TextDistillation | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> list[str | None]:
    """What a model, with an adapter on it, most likely answers; None for an answer longer than the limit."""
    settings, lm = settings or TextDistillation(), open_model(Path(model), device=device, precision=precision)
    if adapter is not None:
        with_adapter(lm, files.read(adapter) if isinstance(adapter, (str, Path)) else adapter)
    form = Format(lm, settings.chat)
    written = ask(form, prompts, settings, tell=progress or silent)
    return [one.text if one.ended else None for one in written]


def _context(lm: LanguageModel) -> int:
    """Tokens that a model reads at once."""
    return getattr(lm.config, "max_position_embeddings", None) or sys.maxsize
