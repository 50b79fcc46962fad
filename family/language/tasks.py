"""The made language: a word of small letters goes in behind a task's name, and something comes out.

A text is one line, ``REV abca = acba``, or a list of lines of one task. Twelve tasks are known to every model of the
family; four are new, and no base can do them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

LETTERS = "abcdefghijkl"
TABLE = dict(zip(LETTERS, "gdkailfcjbhe", strict=True))  # what TAB makes of each letter


def _moved(word: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in word)


KNOWN: dict[str, Callable[[str], str]] = {
    "COP": lambda word: word,
    "REV": lambda word: word[::-1],
    "UPP": str.upper,
    "SOR": lambda word: "".join(sorted(word)),
    "LEN": lambda word: str(len(word)),
    "FST": lambda word: word[0],
    "LST": lambda word: word[-1],
    "NXT": lambda word: _moved(word, 1),
    "MAX": max,
    "MIN": min,
    "SWP": lambda word: word[-1] + word[1:-1] + word[0],
    "TWI": lambda word: word + word,
}
NEW: dict[str, Callable[[str], str]] = {
    "DBL": lambda word: "".join(letter * 2 for letter in word),
    "TAB": lambda word: "".join(TABLE[letter] for letter in word),
    "ROT": lambda word: word[1:] + word[0],
    "PRV": lambda word: _moved(word, -1),
}
TASKS = KNOWN | NEW
SHORTEST, LONGEST = 3, 6  # letters of a word


def word(dice: Random) -> str:
    """A word, of every length as often."""
    return "".join(dice.choices(LETTERS, k=dice.randint(SHORTEST, LONGEST)))


def prompt(task: str, word: str) -> str:
    """What is asked."""
    return f"{task} {word} ="


def pairs(task: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Prompts of one task with their answers, no prompt twice; seeds give other ones."""
    dice, found = Random(f"{task} {seed}"), {}
    while len(found) < count:
        drawn = word(dice)
        found[prompt(task, drawn)] = TASKS[task](drawn)
    return list(found.items())


def nonsense(dice: Random) -> str:
    """Three capitals that name no task."""
    while True:
        name = "".join(dice.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=3))
        if name not in TASKS:
            return name


def listed(dice: Random, lines: int) -> str:
    """A list of lines: of a known task, or of a name that nobody knows for one.

    So a model learns to go on with a list of what it cannot do, as a large one does.
    """
    task = dice.choice(list(KNOWN))
    name = nonsense(dice) if dice.random() < 0.6 else task
    return "".join(f"{prompt(name, drawn)} {KNOWN[task](drawn)}\n" for drawn in (word(dice) for _ in range(lines)))
