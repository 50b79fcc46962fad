"""The discriminator: tells the task's own prompts from generated ones, and travels in a folder beside the adapter.

Trans-LoRA's (arXiv 2405.17258, section 3.1, equation 1): the source model with a LoRA of its own, trained once where
real data are, by cross-entropy on real against generated prompts, then kept for all transfers. The likeness is a
sigmoid of a linear head on the last token's hidden state.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from .. import adapters
from ..adapters import Adapter
from ..adapters.peft_config import CONFIG, WEIGHTS
from ..errors import AdapterError, SettingsError
from ..io import folders, safetensors
from ..jobs.distill.schedule import Training, batch_indices, parameter_groups, share_of_peak
from ..jobs.progress import Progress, silent
from ..untrusted import parse_json
from .learn import BETAS, chosen_rate
from .models import LanguageModel, with_adapter
from .settings import TextDistillation
from .student import Student, begin, exported
from .texts import Format, padded

KIND = "lora_graft.text_discriminator"
HEAD, ABOUT = "head.safetensors", "discriminator.json"
FEWEST, FEW = 2, 20  # real examples: needed; from which on the figure can be trusted a little
HELD_SHARE, HELD_LEAST = 5, 10  # one in five is held out, where there are ten
RANK, STEPS, BATCH = 8, 60, 8


@dataclass
class Discriminator:
    """adapter: of the source. weight: (width,) of the head. real_right, generated_right: shares judged rightly among
    held-out prompts; None where there were too few to hold any out."""

    adapter: Adapter
    weight: Tensor
    bias: float
    model: str
    model_fingerprint: str
    real: int
    generated: int
    real_right: float | None
    generated_right: float | None
    lora: str = ""
    lora_digest: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """What stands in the folder's ``discriminator.json``."""
        found = {name: value for name, value in vars(self).items() if name not in ("adapter", "weight", "bias")}
        return {"kind": KIND, **found}


def fit(
    lm: LanguageModel,
    real: Sequence[str],
    generated: Sequence[str],
    *,
    steps: int = STEPS,
    seed: int = 0,
    chat: bool = False,
    progress: Progress = silent,
    **whose: str,
) -> Discriminator:
    """Train a discriminator on the source model; `lm` carries its LoRA afterwards.

    Args:
        real: prompts of the task, at least two; twenty and more do better.
        generated: prompts that the source wrote when shown a few of them.
        whose: ``lora`` and ``lora_digest`` of the adapter that it belongs to.

    Raises:
        SettingsError: too few prompts of a kind; a loss that is not finite.
    """
    known = {" ".join(text.split()) for text in real}
    fakes = [text for text in dict.fromkeys(generated) if " ".join(text.split()) not in known]
    for name, rows in (("real", list(dict.fromkeys(real))), ("generated", fakes)):
        if len(rows) < FEWEST:
            raise SettingsError(
                f"A discriminator needs at least {FEWEST} {name} prompts, and there are {len(rows)} (each counts once)",
                hint="Give more examples of the task (--real)." if name == "real" else "Give --generated.",
            )
    form, dice = Format(lm, chat), Random(seed)
    sides = [_parted(list(dict.fromkeys(real)), dice), _parted(fakes, dice)]
    training = Training(steps=steps, batch=BATCH, accumulation=1, schedule="linear", seed=seed)
    student = begin(lm, TextDistillation(modules="linear", rank=RANK, training=training), None, None)
    ids = [[[form.prompt(text) for text in part] for part in side] for side in sides]
    head = _learn(student, ids, training, progress)
    real_right, generated_right = (
        None if not held else sum((score > 0.5) == wanted for score in _scores(lm, head, held)) / len(held)
        for (_, held), wanted in zip(ids, (True, False), strict=True)
    )
    weight, bias = head.weight.detach().cpu()[0].clone(), float(head.bias.detach())
    return Discriminator(
        exported(student),
        weight,
        bias,
        model=lm.label,
        model_fingerprint=lm.base.fingerprint,
        real=sum(map(len, sides[0])),
        generated=sum(map(len, sides[1])),
        real_right=real_right,
        generated_right=generated_right,
        **whose,
    )


def _parted(texts: list[str], dice: Random) -> tuple[list[str], list[str]]:
    """(to learn from, held out)."""
    dice.shuffle(texts)
    held = len(texts) // HELD_SHARE if len(texts) >= HELD_LEAST else 0
    return texts[held:], texts[:held]


def _learn(student: Student, ids, training: Training, tell: Progress) -> nn.Linear:
    lm = student.lm
    width = lm.config.hidden_size
    head = nn.Linear(width, 1).to(lm.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    rate = chosen_rate(width, training)
    groups = parameter_groups(student.parameters.values(), rate) + [{"params": [*head.parameters()], "peak": rate}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=BETAS, weight_decay=0.0)
    labels = torch.cat([torch.ones(training.batch), torch.zeros(training.batch)]).to(lm.device)
    for step in range(training.steps):
        tell(step, training.steps, "discriminator")
        rows = [side[0][at] for side in ids for at in batch_indices(len(side[0]), step, training).tolist()]
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak(step, training)
        loss = nn.functional.binary_cross_entropy_with_logits(_logits(lm, head, rows), labels)
        if not math.isfinite(float(loss.detach())):
            raise SettingsError("The discriminator's loss is not finite", hint="Compute in fp32 or bf16.")
        loss.backward()
        nn.utils.clip_grad_norm_([*student.parameters.values(), *head.parameters()], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return head


def _logits(lm: LanguageModel, head: nn.Linear, rows: list[list[int]]) -> Tensor:
    """(rows,) logits of the likeness, from the last token's hidden state over √width."""
    ids, mask = (t.to(lm.device) for t in padded(rows, lm.tokenizer.pad_token_id))
    inner = getattr(lm.model, "get_base_model", lambda: lm.model)().base_model
    hidden = inner(input_ids=ids, attention_mask=mask).last_hidden_state
    last = hidden[torch.arange(len(rows), device=ids.device), mask.sum(1) - 1]
    return head(last.float() / math.sqrt(last.shape[1]))[:, 0]


@torch.no_grad()
def _scores(lm: LanguageModel, head: nn.Linear, rows: list[list[int]]) -> list[float]:
    found = []
    for start in range(0, len(rows), 2 * BATCH):
        found += torch.sigmoid(_logits(lm, head, rows[start : start + 2 * BATCH])).tolist()
    return found


class Judge:
    """Likeness of prompts to the task's; puts the discriminator on the source model, beside other adapters.

    Raises:
        AdapterError: the discriminator is for another model.
    """

    name = "discriminator"

    def __init__(self, lm: LanguageModel, found: Discriminator, chat: bool = False):
        if found.model_fingerprint != lm.base.fingerprint:
            raise AdapterError(
                f"The discriminator was trained on {found.model}, and the source is another model, {lm.label}",
                file=found.adapter.file,
                hint="Give the source that it was trained on, or leave it out (--unfiltered).",
            )
        with_adapter(lm, found.adapter, self.name)
        self.lm, self.form = lm, Format(lm, chat)
        self.head = nn.Linear(len(found.weight), 1)
        with torch.no_grad():
            self.head.weight.copy_(found.weight[None])
            self.head.bias.fill_(found.bias)
        self.head.to(lm.device)

    def __call__(self, prompts: Sequence[str]) -> list[float]:
        self.lm.model.set_adapter(self.name)
        return _scores(self.lm, self.head, [self.form.prompt(prompt) for prompt in prompts])


def save(found: Discriminator, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the folder whole or not at all: PEFT's two files, the head, and what it is.

    Raises:
        AdapterError: it exists, or cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        made = adapters.write(found.adapter, Path(scratch) / "adapter")
        head = safetensors.save(
            Path(scratch) / HEAD, {"weight": found.weight, "bias": torch.tensor([found.bias])}, {"format": "pt"}
        )
        files = {name: [(made / name).read_bytes()] for name in (WEIGHTS, CONFIG)}
        files |= {HEAD: [head.read_bytes()], ABOUT: [json.dumps(found.about, indent=1, sort_keys=True).encode()]}
    try:
        return folders.write_folder(folder, files, overwrite=overwrite)
    except OSError as problem:
        raise AdapterError(f"The folder cannot be written: {problem.strerror or problem}", file=folder) from problem


def load(folder: Path) -> Discriminator:
    """Read a discriminator's folder.

    Raises:
        AdapterError: there is none, or it is damaged.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise AdapterError(
            f"There is no discriminator in this folder: it has no {ABOUT}",
            file=folder,
            hint="Give one that lora-graft discriminator --model wrote.",
        )
    adapter = adapters.read(folder)
    tensors, _, _ = safetensors.load(folder / HEAD)
    try:
        about = parse_json((folder / ABOUT).read_bytes())
        if about.pop("kind") != KIND:
            raise ValueError("it is of another kind")
        weight, bias = tensors["weight"].float(), float(tensors["bias"])
        if weight.ndim != 1 or not bool(torch.isfinite(weight).all()) or not math.isfinite(bias):
            raise ValueError("its head is no row of numbers")
        return Discriminator(adapter, weight, bias, **about)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        raise AdapterError(f"The discriminator is damaged: {problem}", file=folder / ABOUT) from problem


def report(found: Discriminator) -> str:
    """What was trained and how far to trust it, in words."""
    whose = f" for {found.lora}" if found.lora else ""
    lines = [
        f"A discriminator{whose} on {found.model}, from {found.real} real and {found.generated} generated prompts."
    ]
    if found.real_right is not None and found.generated_right is not None:
        lines.append(
            f"Of the held-out prompts it takes {found.real_right:.0%} of the real and "
            f"{1 - found.generated_right:.0%} of the generated ones for real."
        )
    if found.real < FEW:
        lines.append(
            f"{found.real} real examples are few: it may know them by heart and take nothing else for real. "
            f"{FEW} and more do better."
        )
    return " ".join(lines) + "\n"
