"""Prompts written by a language model from a few examples: Trans-LoRA's generator (arXiv 2405.17258, section 3.2).

The paper shows five examples to a language model and lets it write more like them. Any callable that turns a text
into a text can do that: a text encoder of ComfyUI that can write, a pipeline of transformers, a server of one's own.
It is asked in rounds, each with examples drawn anew, another temperature and another seed; what it writes is parsed,
cleaned, compared with what there is already, and counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random
from typing import TypeAlias

from ...errors import SettingsError
from ...untrusted import one_line
from ..progress import Progress, silent
from .text_list import entries

# (what to go on from, temperature, seed) -> what the model writes. The same three should give the same text.
Write: TypeAlias = "Callable[[str, float, int], str]"

EXAMPLES = 5  # as in the paper
A_ROUND = 16  # prompts asked for at once
TEMPERATURES = (0.7, 0.9, 1.1, 0.8, 1.0)  # of the rounds, in turn
PATIENCE = 4  # rounds without a new prompt after which the model has no more to give
LONGEST = 400  # characters of a prompt, or twice as many as the longest example has
ALIKE = 0.8  # two prompts with so many words in common, of all they have, are one
TAGS = 24  # tags shown at once

_ASSISTANT = re.compile(
    r"^(sure|certainly|of course|okay|ok|absolutely|great|got it|understood|sorry)[!,.:]|"
    r"^((sure )?here (are|is)|below (are|is)|these are|i('m| am| cannot| can't| hope| will| have)|as an ai|let me|"
    r"feel free|note that|please)\b|^(好的|当然|以下|抱歉)|[:：?？]$|numbered list|text-to-image",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<[^>]*>|</?\w|https?:|www\.|<\||\|>|```|\[/?\w+\]\(|^#{1,6} |embedding:|&\w+;", re.IGNORECASE)
_NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W_{_NO_SPACES}]+")
_JOINERS = "\u200c\u200d"  # Persian, Hindi and emoji are written with them
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")


@dataclass(frozen=True)
class Domain:
    """What the language model is told of the task.

    examples: prompts as they should be, at least one; EXAMPLES of them are shown at a time.
    tags: training tags with their counts; words: trigger words. Both only steer.
    """

    examples: Sequence[str]
    tags: dict[str, int] = field(default_factory=dict)
    words: Sequence[str] = ()


@dataclass
class Written:
    """lines: the prompts that are good, all different; rejected: how many were not, by reason; rounds: how often the
    model was asked.
    """

    lines: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    rounds: int = 0


def write_prompts(write: Write, domain: Domain, count: int, seed: int = 0, *, progress: Progress = silent) -> Written:
    """Up to `count` prompts by `write`, the same for the same seed and the same `write`.

    It is asked until there are enough, at most four times as often as that needs and three times more, and no longer
    than PATIENCE rounds bring nothing.

    Raises:
        SettingsError: `write` returned something that is no text.
    """
    random = Random(f"written {seed}")  # apart from the template's choices
    check, made, idle = Check(domain), Written(), 0
    most = 3 + 4 * ceil(count / A_ROUND)
    while len(made.lines) < count and made.rounds < most and idle < PATIENCE:
        progress(len(made.lines), count, f"Language model, round {made.rounds + 1}: {len(made.lines)} prompts so far")
        temperature = TEMPERATURES[made.rounds % len(TEMPERATURES)]
        answer = write(_question(domain, random), temperature, random.getrandbits(32))
        if not isinstance(answer, str):
            raise SettingsError(
                f"the language model's function returned {type(answer).__name__}, not text",
                hint="It is called with a text, a temperature and a seed, and returns what the model wrote, as str.",
            )
        made.rounds, idle = made.rounds + 1, idle + 1
        for entry in entries(answer):
            if len(made.lines) == count:
                break
            if reason := check(entry):
                made.rejected[reason] += 1
            else:
                made.lines.append(entry)
                idle = 0
    progress(len(made.lines), count, f"Language model: {len(made.lines)} prompts")
    return made


def _question(domain: Domain, random: Random) -> str:
    """A list that begins with the examples and is to go on: models that only continue a text understand it too."""
    shown = random.sample(list(domain.examples), min(EXAMPLES, len(domain.examples)))
    first, last = len(shown) + 1, len(shown) + A_ROUND
    about = ""
    if domain.tags:
        drawn = weighted(random, domain.tags, TAGS)
        about += f"Words that such prompts use: {', '.join(map(_shown, drawn))}.\n"
    if domain.words:
        about += f"What they are about is called: {', '.join(map(_shown, domain.words[:5]))}.\n"
    listed = "\n".join(f"{i}. {_shown(line, _longest(domain))}" for i, line in enumerate(shown, 1))
    return (
        f"A numbered list of {last} different prompts for a text-to-image model, each a picture of its own, one line "
        f"each, without comments. Numbers 1 to {len(shown)} are examples; the others are of the same kind, in the "
        f"same language and about as long, and none says the same as another. Continue with numbers {first} to "
        f"{last}.\n{about}\n{listed}\n{first}."
    )


def weighted(random: Random, counts: dict[str, int], number: int) -> list[str]:
    """`number` different words, drawn by their counts, in the order of `counts`.

    Weighted drawing without repetition (Efraimidis and Spirakis, 2006): whose exponential clock rings first.
    """
    rings = {word: random.expovariate(count) for word, count in counts.items()}
    chosen = set(sorted(rings, key=rings.__getitem__)[:number])
    return [word for word in counts if word in chosen]


def _longest(domain: Domain) -> int:
    return max(LONGEST, min(2 * max(map(len, domain.examples)), 10 * LONGEST))


def _shown(text: str, longest: int = 100) -> str:
    """A stranger's words as a part of one line, without what some models take for commands."""
    return re.sub(r"<\|?|\|?>", " ", one_line(text)).replace("embedding:", "embedding ").strip()[:longest]


class Check:
    """Says why an entry is no new prompt, or nothing; what passes is remembered."""

    def __init__(self, domain: Domain):
        self.seeds = [_words(line) for line in domain.examples]
        self.known: list[frozenset[str]] = []
        sample = " ".join([*domain.examples, *domain.tags, *domain.words])
        self.scripts = set(_scripts(sample))
        self.longest = _longest(domain)

    def __call__(self, entry: str) -> str:
        reason = self._form(entry)
        if reason:
            return reason
        words = _words(entry)
        if any(_alike(words, other) for other in self.seeds):
            return "copies of the examples"
        if any(_alike(words, other) for other in self.known):
            return "repeated"
        self.known.append(words)
        return ""

    def _form(self, entry: str) -> str:
        if any(unicodedata.category(letter)[0] == "C" and letter not in _JOINERS for letter in entry):
            return "with control characters"
        if _MARKUP.search(entry):
            return "with markup or addresses"
        if len(entry) > self.longest:
            return f"longer than {self.longest} characters"
        letters = Counter(_scripts(entry))
        if letters.total() < 2 or "\ufffd" in entry or letters.total() < len(entry.replace(" ", "")) / 2:
            return "not words"
        if self.scripts and sum(n for script, n in letters.items() if script in self.scripts) < 0.9 * letters.total():
            return "in another script"
        words = _WORD.findall(entry.casefold())
        if max(map(len, words)) > 40 or len(set(words)) < len(words) / 3:
            return "not words"
        return "talk about the list" if _ASSISTANT.search(entry) else ""


def _scripts(text: str) -> list[str]:
    """The script of every letter, by the first word of its Unicode name; those of East Asia, which mix, as one."""
    names = [unicodedata.name(letter, "").split(" ")[0].split("-")[0] for letter in text if letter.isalpha()]
    return ["EAST ASIAN" if name in _EAST_ASIAN else name for name in names]


def _words(line: str) -> frozenset[str]:
    """The words of a prompt, without regard to case and punctuation; of scripts without spaces the characters."""
    return frozenset(_WORD.findall(unicodedata.normalize("NFKC", line).casefold()))


def _alike(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two prompts share ALIKE of their words (Jaccard)."""
    if min(len(a), len(b)) < ALIKE * max(len(a), len(b)):
        return False
    shared = len(a & b)
    return shared >= ALIKE * (len(a) + len(b) - shared)
