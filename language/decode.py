"""Texts that a model writes: greedy or drawn, many at a time."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .models import LanguageModel
from .texts import Ids, padded

_TAIL = 16  # tokens in which the stop text is looked for


@dataclass(frozen=True)
class Written:
    """What a model wrote behind a prompt: text, number of tokens read and written, and whether it came to an end."""

    text: str
    tokens: int
    ended: bool


@torch.no_grad()
def write(
    lm: LanguageModel,
    prompts: list[Ids],
    *,
    longest: int,
    stop: str = "",
    temperature: float | None = None,
    seed: int = 0,
) -> list[Written]:
    """Continue prompts, all of them in one batch.

    Args:
        longest: tokens written at most.
        stop: text that ends the writing beside the ids that do; it is no part of the result.
        temperature: None for the likeliest token always; else tokens are drawn, from `seed`.
    """
    from transformers import StoppingCriteriaList

    ids, mask = (t.to(lm.device) for t in padded(prompts, lm.tokenizer.pad_token_id, left=True))
    how = dict(do_sample=False) if temperature is None else dict(do_sample=True, temperature=temperature)
    if temperature is not None:
        how |= dict(top_k=0, top_p=1.0)
    with seeded(seed, lm.device):
        out = lm.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=longest,
            stopping_criteria=StoppingCriteriaList([_Stop(lm, stop, ids.shape[1])] if stop else []),
            **how,
        )
    rows = out[:, ids.shape[1] :].tolist()
    return [_written(lm, row, len(prompt), stop) for row, prompt in zip(rows, prompts, strict=True)]


def _written(lm: LanguageModel, row: Ids, read: int, stop: str) -> Written:
    end = next((at for at, token in enumerate(row) if token in lm.ends), None)
    text = decoded(lm, row if end is None else row[:end])
    before, found, _ = text.partition(stop) if stop else (text, "", "")
    ended = end is not None or bool(found)
    return Written(before.removeprefix(" ").rstrip(), read + (len(row) if end is None else end + 1), ended)


def decoded(lm: LanguageModel, ids: Ids) -> str:
    """The text of some ids, without marks of the tokenizer's own."""
    return lm.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class _Stop:
    """Ends the rows in which the stop text has been written."""

    def __init__(self, lm: LanguageModel, stop: str, start: int):
        self.lm, self.stop, self.start = lm, stop, start

    def __call__(self, ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        tails = ids[:, max(self.start, ids.shape[1] - _TAIL - len(self.stop)) :].tolist()
        return torch.tensor([self.stop in decoded(self.lm, tail) for tail in tails], device=ids.device)


@contextmanager
def seeded(seed: int, device: torch.device):
    """PyTorch's own dice, which transformers draws with, from a seed; as before when done."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
