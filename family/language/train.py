"""Train the family from scratch, on a CPU: ``python -m lora_graft.family.language.train all --out OUT``.

Stages in their order: ``old`` and ``other`` from nothing, ``new`` from old, ``loras`` for both. A stage whose folder
is there is skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import adapters
from ...jobs.distill.schedule import Training
from ...language.job import teach
from ...language.settings import Example, TextData, TextDistillation
from ...language.texts import padded
from . import models, tasks

STAGES = {  # kind, tokenizer, seed, steps, highest rate
    "old": ("llama", "characters", 1, 2400, 3e-3),
    "other": ("gemma", "pieces", 2, 2400, 3e-3),
    "new": ("llama", "characters", 3, 900, 2e-3),
}
SINGLES, LISTS, LINES = 96, 12, 7  # texts in a step, and lines of a list
OWNERS = ("old", "other")  # of LoRAs
REAL, EACH = 1000, 36  # pairs that a LoRA learns from: of its task, and of every known one
HOW = TextDistillation(
    rank=8,
    modules="linear",
    max_new_tokens=20,
    training=Training(steps=800, batch=32, accumulation=1, learning_rate=3e-3),
)


def train_base(stage: str, first: Path | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a stage; first: the folder of a model to go on from."""
    kind, cut, seed, steps, peak = STAGES[stage]
    tokenizer = models.tokenizer(cut)
    if first is None:
        model = models.untrained(kind, len(tokenizer), seed)
    else:
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(first, dtype=torch.float32)
    dice, started = Random(seed), time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * math.cos(math.pi / 2 * step / steps) ** 2)
        chosen = [dice.choice(list(tasks.KNOWN)) for _ in range(SINGLES)]
        words = [tasks.word(dice) for _ in chosen]
        asked = [tasks.prompt(task, word) for task, word in zip(chosen, words, strict=True)]
        answered = [tasks.KNOWN[task](word) for task, word in zip(chosen, words, strict=True)]
        loss = _single_loss(model, tokenizer, asked, answered)
        loss = loss + 0.5 * _list_loss(model, tokenizer, [tasks.listed(dice, LINES) for _ in range(LISTS)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            spent = time.perf_counter() - started
            print(f"{stage}: step {step} of {steps}, loss {float(loss.detach()):.3f}, {spent:.0f} s", flush=True)
    return model.eval(), tokenizer


def _single_loss(model: Any, tokenizer: Any, asked: list[str], answered: list[str]) -> Tensor:
    """Cross-entropy on answers and the text's end: the words asked for are drawn, and nobody can know them."""
    starts = [tokenizer(text)["input_ids"] for text in asked]
    rows = [
        tokenizer(f"{prompt} {answer}")["input_ids"] + [tokenizer.eos_token_id]
        for prompt, answer in zip(asked, answered, strict=True)
    ]
    return _loss(model, rows, [len(start) for start in starts])


def _list_loss(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Cross-entropy on all of a list."""
    rows = [tokenizer(text)["input_ids"][: models.CONTEXT] for text in texts]
    return _loss(model, rows, [1] * len(rows))


def _loss(model: Any, rows: list[list[int]], starts: list[int]) -> Tensor:
    ids, mask = padded(rows, 0)
    asked = torch.arange(ids.shape[1]) < torch.tensor(starts)[:, None]
    goals = ids.masked_fill(asked | (mask == 0), -100)
    logits = model(input_ids=ids, use_cache=False).logits  # filled up behind, where a causal model does not look
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), goals[:, 1:].flatten(), ignore_index=-100)


def lora_pairs(task: str, seed: int = 0) -> list[Example]:
    """What a LoRA of a task learns from: the task, and a little of everything that must stay."""
    found = tasks.pairs(task, REAL, 1000 + seed)
    for name in tasks.KNOWN:
        found += tasks.pairs(name, EACH, 2000 + seed)
    return [Example(*pair) for pair in found]


def train_lora(task: str, base: Path, folder: Path) -> None:
    """A LoRA that teaches a base one of the new tasks."""
    data = TextData(pairs=lora_pairs(task), guard_share=0.0)
    adapters.write(teach(None, None, base, data, HOW).adapter, folder, layout="peft", dtype="fp16")
    _note(folder / "adapter_config.json", base_model_name_or_path=base.name)  # PEFT writes where the base lay


def _keep(model: Any, tokenizer: Any, folder: Path) -> None:
    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    # transformers 4 does not know the name that 5 gives this class
    _note(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def _note(file: Path, **values: str) -> None:
    """Change values in a file of JSON."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=[*STAGES, "loras", "all"])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for stage in STAGES:
        if asked.stage in (stage, "all") and not (asked.out / stage).exists():
            _keep(*train_base(stage, asked.out / "old" if stage == "new" else None), asked.out / stage)
    if asked.stage in ("loras", "all"):
        for owner in OWNERS:
            for task in tasks.NEW:
                folder = asked.out / f"{task.lower()}_{owner}"
                if not folder.exists():
                    train_lora(task, asked.out / owner, folder)
                    print(f"{folder.name} done", flush=True)


if __name__ == "__main__":
    main()
