"""The generator: a causal language model that is shown a few examples and writes another prompt of their kind.

As in Trans-LoRA (arXiv 2405.17258, section 3 and figure 1) it is shown five examples and is the target without an
adapter, where no other model is given; a discriminator is trained against what the source writes in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .decode import write
from .models import LanguageModel
from .settings import Example
from .texts import Format, Ids

SHOTS = 5  # examples shown at a time
BATCH = 16  # prompts written at a time
_LINE, _RULE = "\n", "\n\n###\n\n"
# What closes a prompt, before the answer: punctuation, with a word before it where that has a line to itself.
_CLOSE = re.compile(r"(?:\n\S*?|\s*)[^\w\s]+\s*$")
_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")


@dataclass(frozen=True)
class Batch:
    """prompts: as they were written, one for each row; "" for one without an end. tokens: read and written."""

    prompts: list[str]
    tokens: int


class Generator:
    """Prompts in batches; batch and seed decide what is in them.

    A base model goes on with a list of the examples, in an order drawn for every row: each a line with its answer,
    of which what it writes is kept up to the mark that closes all prompts ("=", "?", "Answer:"). Where examples have
    no answers, or no such mark, the list is of prompts alone. In a chat the model is asked for one more.
    """

    def __init__(
        self, lm: LanguageModel, seeds: Sequence[Example], *, temperature: float, seed: int, chat: bool = False
    ):
        self.lm, self.seeds, self.temperature, self.seed = lm, list(seeds), temperature, seed
        self.chat = chat and bool(getattr(lm.tokenizer, "chat_template", None))
        self.form = Format(lm, self.chat)
        self.mark = "" if self.chat else closing(self.seeds)
        texts = [example.prompt + example.answer for example in self.seeds]
        self.rule = _RULE if any("\n" in text.strip() for text in texts) else _LINE
        plain = Format(lm)
        self.longest = 16 + 2 * max(len(plain.prompt(example.prompt)) for example in self.seeds)

    def batch(self, number: int) -> Batch:
        """The prompts of one batch."""
        dice = Random(f"{self.seed} {number}")
        asked = [self._asked(dice) for _ in range(BATCH)]
        written = write(
            self.lm,
            asked,
            longest=self.longest,
            stop=self.mark or ("" if self.chat else self.rule),
            temperature=self.temperature,
            seed=dice.getrandbits(62),
        )
        prompts = [self._found(one.text) if one.ended else "" for one in written]
        return Batch(prompts, sum(one.tokens for one in written))

    def _asked(self, dice: Random) -> Ids:
        shown = dice.sample(self.seeds, min(SHOTS, len(self.seeds)))
        if self.chat:
            listed = "\n".join(f"{number}. {example.prompt}" for number, example in enumerate(shown, 1))
            return self.form.prompt(
                f"These are inputs for one task:\n\n{listed}\n\nWrite one more input of this kind, unlike these. "
                "Write the input alone."
            )
        joint = "" if self.mark[-1:].isspace() else " "
        lines = [e.prompt + (joint + e.answer if self.mark else "") + self.rule for e in shown]
        return self.form.prompt("".join(lines))

    def _found(self, text: str) -> str:
        if self.chat:
            return _MARK.sub("", text.strip())
        prompt = text.partition(self.rule)[0] if self.rule in text else text
        return prompt.strip("\n") + self.mark if self.mark and self.rule not in text else prompt * (not self.mark)


def closing(seeds: Sequence[Example]) -> str:
    """The mark with which the prompts of all examples end, where all have answers; else nothing."""
    found = {hit[0] if (hit := _CLOSE.search(example.prompt)) else "" for example in seeds}
    mark = found.pop() if len(found) == 1 else ""
    return mark if all(example.answer for example in seeds) else ""
