"""What the student is to answer, and how far it is from that: on answers as they are, or on a difference of logits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .models import LanguageModel
from .texts import Pair, padded

Loss = Callable[[list[Pair]], tuple[Tensor, int]]  # pairs -> (sum over the answers' tokens, number of them)


def mean_loss(loss: Loss, pairs: list[Pair], batch: int) -> float:
    """The loss per token over all pairs, a batch at a time, without gradients."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(pairs), batch):
            found, tokens = loss(pairs[start : start + batch])
            total, count = total + float(found), count + tokens
    return total / max(1, count)


def logits(lm: LanguageModel, pairs: list[Pair], *, plain: bool = False) -> Tensor:
    """(tokens, vocabulary) in float32: what the model foretells for every token of the answers.

    plain: without the adapter that is on the model.
    """
    ids, mask = (
        t.to(lm.device) for t in padded([pair.prompt + pair.answer for pair in pairs], lm.tokenizer.pad_token_id)
    )
    model: Any = lm.model
    with model.disable_adapter() if plain else nullcontext():
        found = model(input_ids=ids, attention_mask=mask).logits
    rows = [
        found[row, len(pair.prompt) - 1 : len(pair.prompt) + len(pair.answer) - 1] for row, pair in enumerate(pairs)
    ]
    return torch.cat(rows).float()


def answers(student: LanguageModel) -> Loss:
    """Trans-LoRA as printed: cross-entropy on the answers' tokens (arXiv 2405.17258)."""

    def loss(pairs: list[Pair]) -> tuple[Tensor, int]:
        wanted = torch.tensor([token for pair in pairs for token in pair.answer], device=student.device)
        return functional.cross_entropy(logits(student, pairs), wanted, reduction="sum"), len(wanted)

    return loss


def difference(student: LanguageModel, teacher: LanguageModel, effect: float) -> Loss:
    """KL divergence from softmax(z_target + λ (z_source+adapter − z_source)) on the answers' tokens.

    Both models must share one tokenizer. The goal keeps what the target foretells by itself, which the answers alone
    do not.
    """

    def loss(pairs: list[Pair]) -> tuple[Tensor, int]:
        with torch.no_grad():
            added = logits(teacher, pairs) - logits(teacher, pairs, plain=True)
            goal = logits(student, pairs, plain=True) + effect * added.to(student.device)
        found = functional.log_softmax(logits(student, pairs), -1)
        return functional.kl_div(found, functional.log_softmax(goal, -1), reduction="sum", log_target=True), len(goal)

    return loss
