"""The prompts that a teacher is asked: given ones, or a generator's, which a discriminator filters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..jobs.distill.checkpoint import identity
from ..jobs.progress import Progress
from .collect import Collected, collect
from .discriminator import Judge
from .discriminator import load as load_discriminator
from .generator import SHOTS, Generator
from .models import LanguageModel
from .run import TextRun
from .settings import TextData


def gathered(
    data: TextData,
    target: LanguageModel,
    teacher: LanguageModel | None,
    chat: bool,
    opened: Callable[[Path], LanguageModel],
    run: TextRun,
    tell: Progress,
) -> tuple[Collected, str]:
    """The prompts, and a hash of what decides them.

    Args:
        teacher: the source without its adapter; needed where the prompts are generated.
        chat: whether prompts go into the generator's chat template.
        opened: opens a generator's folder.

    Raises:
        SettingsError: the generator only repeats, or too few prompts were accepted.
    """
    if data.pairs or data.prompts:
        kept = [pair.prompt for pair in data.pairs] or list(dict.fromkeys(data.prompts))
        words = f"The prompts are {len(kept)} given ones" + (", with their answers." if data.pairs else ".")
        return Collected(kept, words, wanted=len(kept)), identity("given", kept)
    assert teacher is not None
    writer = target if data.generator is None else opened(Path(data.generator))
    generator = Generator(writer, data.seeds, temperature=data.temperature, seed=data.seed, chat=chat)
    words = f"The prompts were written by {writer.label}, shown {min(SHOTS, len(data.seeds))} examples at a time, "
    judge, marks = None, []
    if data.discriminator is None:
        words += "and not filtered."
    else:
        found = load_discriminator(data.discriminator)
        judge = Judge(teacher, found, chat)
        marks = [found.adapter.digest, found.weight.tolist(), found.bias, teacher.base.fingerprint]
        words += f"and filtered by a discriminator from {found.real} real examples."
    seeds = [[example.prompt, example.answer] for example in data.seeds]
    how = [data.samples, data.seed, data.temperature, data.attempts, data.least_likeness, chat]
    key = identity("prompts", seeds, how, writer.base.fingerprint, str(writer.model.dtype), marks)
    journal = run.journal("prompts", key)
    return collect(generator.batch, judge, data, words=words, journal=journal, tell=tell), key
