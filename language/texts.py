"""Prompts and answers as a model reads them: one text, cut into ids by the model's own tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SettingsError
from .models import LanguageModel

Ids = list[int]


class Pair(NamedTuple):
    """Ids of a prompt and of its answer, the end of the text among the latter."""

    prompt: Ids
    answer: Ids


@dataclass(frozen=True)
class Format:
    """How a model is asked: the prompt as it is, or in its chat template.

    A text is prompt and answer with a space between them, unless one of them has white space there.

    Raises:
        SettingsError: a chat is asked for and the tokenizer has no template.
    """

    lm: LanguageModel
    chat: bool = False

    def __post_init__(self) -> None:
        if self.chat and not getattr(self.lm.tokenizer, "chat_template", None):
            raise SettingsError(
                f"The tokenizer of {self.lm.label} has no chat template",
                file=self.lm.base.path,
                hint="Leave out --chat: prompts then go to the model as they are.",
            )

    def prompt(self, prompt: str) -> Ids:
        """Ids of a prompt, those that begin a text among them."""
        return self._encoded(self._begun(prompt))

    def pair(self, prompt: str, answer: str) -> Pair:
        """Ids of a prompt and of its answer."""
        begun = self._begun(prompt)
        joint = "" if self.chat or begun[-1:].isspace() or answer[:1].isspace() else " "
        first, whole = self._encoded(begun), self._encoded(begun + joint + answer)
        if whole[: len(first)] == first:
            rest = whole[len(first) :]
        else:  # the tokenizer joins the two at the seam; a model that answers goes on behind the prompt's own ids
            rest = self.lm.tokenizer(joint + answer, add_special_tokens=False)["input_ids"]
        return Pair(first, [*rest, self.lm.tokenizer.eos_token_id])

    def _begun(self, prompt: str) -> str:
        if not self.chat:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        return self.lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def _encoded(self, text: str) -> Ids:
        ids = list(self.lm.tokenizer(text, add_special_tokens=not self.chat)["input_ids"])
        while len(ids) > 1 and ids[-1] == self.lm.tokenizer.eos_token_id:
            ids.pop()
        return ids


def padded(rows: list[Ids], filler: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (rows, longest): shorter rows filled up at their end, or at their beginning."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), filler)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        at = slice(longest - len(row), None) if left else slice(len(row))
        ids[number, at] = torch.tensor(row, dtype=torch.long)
        mask[number, at] = 1
    return ids, mask
