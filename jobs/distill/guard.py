"""Guard prompts: prompts without the trigger words, on which a student should do no more than its teacher does.

A concept learnt from its own prompts alone spreads over everything else that the base can draw, for nothing says that
it should not. A share of ordinary prompts says it: what the LoRA does there, usually little, is taught too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil
from random import Random

from .writer import weighted

TRIES = 50  # lines of one source in a row that were there already, after which it has no more
MOST = 6  # tags in a guard prompt
EVERYDAY = (
    "a woman reading a book in a cafe",
    "an old man with a grey beard",
    "a boy riding a bicycle down a lane",
    "a group of friends around a table",
    "a baker taking bread out of the oven",
    "a girl in a yellow raincoat",
    "a doctor in a hospital corridor",
    "a couple dancing at a wedding",
    "a footballer in front of a crowd",
    "a violinist on a stage",
    "two children building a sandcastle",
    "a farmer in a field of wheat",
    "a dog running on a beach",
    "a cat looking out of a window",
    "a horse in a meadow",
    "a flock of birds over a lake",
    "a butterfly on a flower",
    "an elephant at a water hole",
    "goldfish in a round bowl",
    "a fox in the snow",
    "a mountain range at sunrise",
    "a forest path in autumn",
    "waves breaking on rocks",
    "a desert under a clear sky",
    "a waterfall in the jungle",
    "a field of sunflowers",
    "a frozen river in winter",
    "a starry night over hills",
    "a narrow street in an old town",
    "a skyline of tall buildings at dusk",
    "a wooden bridge over a stream",
    "a lighthouse on a cliff",
    "a church in a village",
    "a market with fruit and vegetables",
    "a railway station with a train",
    "a library with high shelves",
    "a living room with a green sofa",
    "a kitchen with copper pots",
    "a bedroom with morning light",
    "an empty classroom",
    "a workshop full of tools",
    "a red car on a country road",
    "a sailing boat on the sea",
    "an aeroplane above the clouds",
    "a motorbike parked by a wall",
    "a steam locomotive in the mountains",
    "a bowl of soup on a table",
    "a slice of chocolate cake",
    "a cup of coffee and a newspaper",
    "a basket of apples",
    "a bunch of tulips in a vase",
    "a pair of old shoes",
    "a clock on a stone wall",
    "a stack of books and a lamp",
    "an umbrella in the rain",
    "a wooden chair in an empty room",
    "a glass marble on a mirror",
    "an abstract pattern of circles",
    "a map of an island",
    "a paper boat on a puddle",
)


def guard_prompts(
    seeds: Sequence[str], tags: dict[str, int], words: Sequence[str], count: int, seed: int, usual: float = MOST / 1.5
) -> list[tuple[str, str]]:
    """(prompt, source) for up to `count` prompts that do not name the trigger words.

    Sources take turns: "tags" (training tags without the trigger words), "seeds" (seed prompts that lose them) and
    "everyday". Without known trigger words nobody can tell which tags and seed prompts do without; then all are
    everyday ones.

    usual: tags in a caption; a guard prompt has half of it to half more, and at most MOST.
    """
    random = Random(f"guard {seed}")
    other = {tag: n for tag, n in tags.items() if not any(says(tag, word) for word in words)}
    without = list(dict.fromkeys(filter(None, (_without(line, words) for line in seeds))))

    most = min(max(int(1.5 * usual), 1), MOST, len(other))
    fewest = min(max(ceil(usual / 2), 1), most)

    def some_tags() -> Iterator[str]:
        while True:
            yield ", ".join(weighted(random, other, random.randint(fewest, most)))

    def shuffled(lines: Sequence[str]) -> Iterator[str]:
        return iter(random.sample(list(lines), len(lines)))

    sources: dict[str, Iterator[str]] = {}
    if words and other:
        sources["tags"] = some_tags()
    if words and without:
        sources["seeds"] = shuffled(without)
    sources["everyday"] = shuffled([line for line in EVERYDAY if not any(says(line, word) for word in words)])
    found: dict[str, str] = {}
    while sources and len(found) < count:
        for name in list(sources):
            line = next((line for line in islice(sources[name], TRIES) if line not in found), None)
            if line is None:
                del sources[name]
            elif len(found) < count:
                found[line] = name
    return list(found.items())


def says(line: str, word: str) -> bool:
    """Whether a word or phrase stands in a line, as itself and not within another word."""
    return re.search(_whole(word), line, re.IGNORECASE) is not None


def _without(line: str, words: Sequence[str]) -> str:
    """The line without the words, and without what stood around them alone."""
    for word in words:
        line = re.sub(_whole(word), " ", line, flags=re.IGNORECASE)
    parts = (" ".join(part.split()).strip(" :;.-") for part in line.split(","))
    return ", ".join(part for part in parts if part)


def _whole(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"
