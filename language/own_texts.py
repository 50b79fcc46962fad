"""Guard texts: what the target writes by itself, without any prompt, and is to go on writing.

A student that learns one task's answers alone gives them to every prompt. Texts of the target's own are learnt beside
them, as in rehearsal with generated data (pseudo-rehearsal, Robins 1995; LAMOL, arXiv 1909.03329); nobody has to have
the data that the target was trained on.
"""

from __future__ import annotations

from ..jobs.distill.checkpoint import identity
from ..jobs.progress import Progress
from .decode import write
from .models import LanguageModel
from .run import TextRun
from .texts import Format, Ids, Pair

MEASURED = 32  # texts that are not learnt, with which side effects are measured
BATCH, LONGEST, MOST_TRIES = 16, 64, 3  # texts at a time, tokens of one, and times as many as are wanted


def own_texts(
    lm: LanguageModel, share: float, lessons: int, seed: int, run: TextRun, tell: Progress
) -> tuple[list[Pair], list[Pair], int]:
    """(texts to learn, texts to measure with, tokens spent).

    Args:
        share: of everything that is learnt. lessons: how many answers are learnt beside them.
    """
    wanted = round(lessons * share / (1 - share)) + MEASURED
    key = identity("own texts", lm.base.fingerprint, str(lm.model.dtype), wanted, seed)
    journal, start, tokens = run.journal("own", key), _start(lm), 0
    found: list[Pair] = []
    for number in range(-(-wanted // BATCH) * MOST_TRIES):
        if len(found) >= wanted:
            break
        if number >= len(journal.records):
            tell(len(found), wanted, "texts of the target's own")
            written = write(lm, [start] * BATCH, longest=LONGEST, temperature=1.0, seed=seed * 1_000_003 + number)
            journal.add({"texts": [vars(one) for one in written]})
        for one in journal.records[number]["texts"]:
            tokens += one["tokens"]
            if ids := lm.tokenizer(one["text"], add_special_tokens=False)["input_ids"]:
                found.append(Pair(start, ids + [lm.tokenizer.eos_token_id] * one["ended"]))
    if journal.trouble:
        run.notes.append(journal.trouble)
    return found[MEASURED:wanted], found[:MEASURED], tokens


def _start(lm: LanguageModel) -> Ids:
    """What begins a text; models without such a mark put the end of the one before there."""
    return Format(lm).prompt("") or [lm.tokenizer.eos_token_id]
