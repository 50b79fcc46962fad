"""Prompts that are new and like the task's: generated, compared, filtered, until there are enough.

Rejection sampling as in Trans-LoRA (arXiv 2405.17258, algorithm 1), with an end: a generator that has nothing new to
say, or a discriminator that takes nothing, is told and not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from ..errors import SettingsError
from ..jobs.progress import Progress, silent
from .answers import FEWEST
from .generator import Batch
from .journal import Journal
from .settings import TextData

STALE = 20  # batches without anything new after which nothing new is expected
Judge = Callable[[Sequence[str]], list[float]]


@dataclass
class Collected:
    """prompts: accepted. words: where they came from. wanted: how many were asked for.

    generated: of which so many were repeated, unusable or rejected. tokens: read and written. scores: of the
    discriminator, by name.
    """

    prompts: list[str]
    words: str
    wanted: int
    generated: int = 0
    duplicates: int = 0
    unusable: int = 0
    rejected: int = 0
    tokens: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collect(
    generate: Callable[[int], Batch],
    judge: Judge | None,
    data: TextData,
    *,
    words: str,
    journal: Journal | None = None,
    tell: Progress = silent,
) -> Collected:
    """Generate until `data.samples` prompts are accepted, or the limit of tries is reached.

    Args:
        generate: the prompts of a batch, by its number.
        judge: likeness of each prompt to the task's; None takes all.
        journal: where a broken run goes on.

    Raises:
        SettingsError: the generator only repeats, or too few prompts were accepted.
    """
    journal, seen = journal or Journal(None, "", ""), {_form(example.prompt) for example in data.seeds}
    found, scores, stale = Collected([], words, data.samples), [], 0
    for number in range(data.samples * data.attempts + 1):
        if number >= len(journal.records):
            if len(found.prompts) >= data.samples or found.generated >= data.samples * data.attempts or stale >= STALE:
                break
            tell(len(found.prompts), data.samples, f"{found.generated} prompts written")
            journal.add(_made(generate(number), judge, seen))
        record = journal.records[number]
        before = len(seen)
        for prompt, score in zip(record["prompts"], record["scores"], strict=True):
            found.generated += 1
            if not prompt:
                found.unusable += 1
            elif _form(prompt) in seen:
                found.duplicates += 1
            elif score is not None and score < data.least_likeness:
                found.rejected += 1
                seen.add(_form(prompt))
                scores.append(score)
            else:
                seen.add(_form(prompt))
                scores += [] if score is None else [score]
                found.prompts += [prompt] if len(found.prompts) < data.samples else []
        found.tokens += record["tokens"]
        stale = 0 if len(seen) > before else stale + 1
    if scores:
        found.scores = {"lowest": min(scores), "median": median(scores), "highest": max(scores)}
    _require(found, data, stale >= STALE)
    if journal.trouble:
        found.notes.append(journal.trouble)
    return found


def _made(batch: Batch, judge: Judge | None, seen: set[str]) -> dict:
    """A record: prompts, the scores of those that are new, tokens."""
    scores: list[float | None] = [None] * len(batch.prompts)
    if judge is not None:
        new = [at for at, prompt in enumerate(batch.prompts) if prompt and _form(prompt) not in seen]
        for at, score in zip(new, judge([batch.prompts[at] for at in new]) if new else [], strict=True):
            scores[at] = score
    return {"prompts": batch.prompts, "scores": scores, "tokens": batch.tokens}


def _form(prompt: str) -> str:
    """The prompt for comparing: white space apart."""
    return " ".join(prompt.split())


def _require(found: Collected, data: TextData, stale: bool) -> None:
    """SettingsError with its reason where too few prompts are there; a note where fewer than wanted are."""
    count, made = len(found.prompts), found.generated
    if count >= data.samples:
        return
    reasons = f"{found.duplicates} were repeated, {found.unusable} had no end or were no prompt" + (
        f", {found.rejected} were rejected" if found.rejected else ""
    )
    if count >= FEWEST:
        why = "the generator wrote nothing new any more" if stale else "the limit of tries was reached"
        found.notes.append(f"Only {count} of {data.samples} prompts: {why}. Of {made} written {reasons}.")
        return
    if found.rejected:
        scores = found.scores
        raise SettingsError(
            f"The discriminator accepted {count} of {made} prompts: it gave new ones {scores['lowest']:.3f} to "
            f"{scores['highest']:.3f} (median {scores['median']:.3f}), and {data.least_likeness:g} is needed",
            hint="Is it for this adapter and this source? Else lower --least-likeness, take other or more seeds or "
            "another --generator, train it on more real examples, or leave it out (--unfiltered).",
        )
    if found.unusable > found.duplicates:
        raise SettingsError(
            f"Of {made} prompts that the generator wrote {count} are usable: {reasons}",
            hint="Take a model that can go on with a list (--generator), --chat for one that answers, or give "
            "prompts (--prompts).",
        )
    raise SettingsError(
        f"The generator only repeats the seeds and itself: of {made} prompts {count} are new",
        hint="Give more and other seeds, a higher --temperature, another --generator, or prompts (--prompts).",
    )
