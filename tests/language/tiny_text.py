"""Tiny language models that really answer: letters in, other letters out, trained in seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from language_models import peft, transformers

LETTERS = "abcdefgh"
SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, max_position_embeddings=256)
SIZES |= dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)


def solve(task: str, word: str) -> str:
    if task == "same":
        return word
    by = 1 if task == "next" else -1
    return "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in word)


def question(task: str, word: str) -> str:
    return f"{task[0]} {word} ="


def words() -> list[str]:
    return [a + b for a in LETTERS for b in LETTERS]


def tokenizer(order: str = "abcdefghns =\n"):
    """Single characters as tokens, numbered in an order; ``<s>`` begins a text and ``</s>`` ends it."""
    import tokenizers

    names = ["<pad>", "<s>", "</s>", "<unk>", *order]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    return fast


def document(tasks, dice: random.Random, lines: int) -> str:
    """Lines of one task; in lists also of one whose answers mean nothing, as a base has seen what it cannot do."""
    if lines > 1 and tasks == ("same",) and dice.random() < 0.7:
        return "\n".join(f"{question('next', w)} {dice.choice(words())}" for w in dice.choices(words(), k=lines))
    task = dice.choice(tasks)
    return "\n".join(f"{question(task, w)} {solve(task, w)}" for w in dice.choices(words(), k=lines))


def fit(model, tok, tasks, steps: int, rate: float, seed: int = 0, parameters=None) -> None:
    """Plain training on documents of some tasks, on every token."""
    dice = random.Random(seed)
    optimizer = torch.optim.AdamW(list(parameters or model.parameters()), lr=rate, weight_decay=0.0)
    model.train()
    for step in range(steps):
        single = step % 4 > 0  # a line that ends; else several lines, as a generator is shown
        texts = [document(tasks, dice, 1 if single else 5) for _ in range(24)]
        rows = tok([text for text in texts], padding=True, return_tensors="pt")
        ids = torch.cat([rows["input_ids"], torch.full((24, 1), tok.pad_token_id)], 1)
        ends = rows["attention_mask"].sum(1)
        if single:
            ids[torch.arange(24), ends] = tok.eos_token_id
            ends = ends + 1
        labels = ids.masked_fill(torch.arange(ids.shape[1])[None] >= ends[:, None], -100)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps) + rate / 50
        model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def make(folder: Path, kind: str = "Llama", order: str | None = None, seed: int = 0, width: int = 32, steps=200):
    """A base that knows "same", in a folder with its tokenizer; the model and the tokenizer."""
    tok = tokenizer(order) if order else tokenizer()
    torch.manual_seed(seed)
    sizes = SIZES | dict(hidden_size=width, head_dim=width // 4, vocab_size=64)
    sizes |= dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # the class' own start is made for far wider layers
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    fit(model, tok, ("same",), steps, 1e-2, seed)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return model, tok


def teach_next(model, tok, folder: Path, steps: int = 150, task: str = "next"):
    """A LoRA by which the model knows a task, trained on real data, in a folder; PEFT's model."""
    torch.manual_seed(7)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    made = peft.get_peft_model(model, config)
    fit(made, tok, (task,), steps, 1e-2, 3, [p for p in made.parameters() if p.requires_grad])
    made.save_pretrained(folder)
    return made


def write_seeds(file: Path, chosen=("ab", "ch", "fd", "he", "gg"), task: str = "next") -> Path:
    lines = [json.dumps({"prompt": question(task, w), "answer": solve(task, w)}) for w in chosen]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
