"""What is left of LoRAs in a merge, on text: ``python benchmarks/llm_merge.py [PART …] [--out FOLDER]``.

LoRA-LEGO's comparisons on the LoRAs of family/language, by ``jobs.merge``. Parts: ``mixed`` (the four tasks' LoRAs in
one), ``pairs`` (each two of them in one: task level), ``ranks`` (the four cut to rank 8, 6, 4 and 3, and merged),
``prune`` (each alone at fewer ranks) and ``taught`` (the four taught to one student by their answers: 100 generated
prompts each, guard texts, 200 steps of 16). On base ``old`` and, with ``--bases``, on ``other``, with its own four.

Accuracy: share of prompts of the merged LoRAs' tasks that get the right answer, to the letter; others: the same for the
twelve tasks that the base knows. At equal rank, as the method leaves the result and, where that is another size, scaled
to the norm of the exact sum. The ensemble asks every LoRA at every token: the mean of their logits, or the base's and
the sum of what each adds.

Every figure is kept in ``FOLDER/llm_merge.jsonl`` as soon as it is measured; the same call goes on there, and prints
the tables from it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from ledger import Ledger
from llm import lora
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.family.language import FOLDER, tasks
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.language.answers import ask
from lora_graft.language.models import LanguageModel, open_model, with_adapter
from lora_graft.language.run import TextRun
from lora_graft.language.settings import Example, TextData, TextDistillation
from lora_graft.language.several import teach_several
from lora_graft.language.texts import Format, Ids, padded
from quality_merge import norm

ASKED, EACH = 60, 5  # prompts of every task of a LoRA, and of every known one
LONGEST = 20
ASKING = TextDistillation(max_new_tokens=LONGEST, training=Training(batch=64))
TEACHING = replace(ASKING, rank=8, training=Training(steps=200, batch=16, accumulation=1))
MIXED = dict(zip(tasks.NEW, (8, 6, 4, 3), strict=True))
WAYS: dict[str, dict] = {
    "exact sum (task arithmetic)": dict(method="concat"),
    "weight average": dict(method="linear"),
    "TIES": dict(method="ties"),
    "DARE": dict(method="dare"),
    "SVD cut of the sum": dict(method="svd"),
    "KnOTS": dict(method="knots"),
    "TSV": dict(method="tsv"),
    "**LEGO**, the default": dict(method="lego"),
    "LEGO as printed": dict(method="lego", units="paper"),
}
UNCUT = ("concat", "linear")
ENSEMBLES = {"ensemble, mean of logits": False, "ensemble, sum of what each adds": True}
Answers = Callable[[list[str]], list[str]]


class Bench:
    """A base with its four LoRAs."""

    def __init__(self, base: str, ledger: Ledger):
        self.base, self.ledger = base, ledger
        self.loras = {task: adapters.read(lora(task, base)) for task in tasks.NEW}

    def measured(self, key: str, made: Callable[[], Adapter | None], wanted: Sequence[str]) -> dict:
        """Figures of an adapter on the base."""
        return self.ledger.measured(f"{self.base} {key}", lambda: self.judged(self.answers(made()), wanted))

    def answers(self, adapter: Adapter | None) -> Answers:
        lm = self.opened(adapter)
        return lambda prompts: [one.text if one.ended else "" for one in ask(Format(lm), prompts, ASKING)]

    def opened(self, adapter: Adapter | None) -> LanguageModel:
        lm = open_model(FOLDER / self.base)
        if adapter is not None:
            with_adapter(lm, adapter)
        return lm

    def judged(self, answers: Answers, wanted: Sequence[str]) -> dict:
        """Accuracy on each of some tasks, and on all that the base knows."""
        asked = [(task, pair) for task in wanted for pair in tasks.pairs(task, ASKED, 7)]
        asked += [("others", pair) for task in tasks.KNOWN for pair in tasks.pairs(task, EACH, 8)]
        said = answers([prompt for _, (prompt, _) in asked])
        right: dict[str, list[bool]] = {}
        for (task, (_, answer)), text in zip(asked, said, strict=True):
            right.setdefault(task, []).append(text.strip() == answer)
        return {task: sum(hits) / len(hits) for task, hits in right.items()}

    def asked_together(self, key: str, chosen: Sequence[str], summed: bool) -> dict:
        return self.ledger.measured(f"{self.base} {key}", lambda: self.judged(self.ensemble(chosen, summed), chosen))

    def ensemble(self, chosen: Sequence[str], summed: bool) -> Answers:
        """Greedy answers from several models' logits, put together at every token."""
        models = [self.opened(self.loras[task]) for task in chosen] + [self.opened(None)] * summed
        return lambda prompts: [
            text
            for start in range(0, len(prompts), 64)
            for text in together(models, prompts[start : start + 64], summed)
        ]


@torch.no_grad()
def together(models: list[LanguageModel], prompts: list[str], summed: bool) -> list[str]:
    """Answers to some prompts; summed: the last model is the base, to which what the others add is added.

    An answer that does not end is "".
    """
    form, base = Format(models[-1]), models[-1]
    ids, mask = padded([form.prompt(prompt) for prompt in prompts], base.tokenizer.pad_token_id, left=True)
    written: list[Ids] = [[] for _ in prompts]
    caches: list = [None] * len(models)
    ended, new, places = torch.zeros(len(prompts), dtype=torch.bool), ids, (mask.cumsum(1) - 1).clamp(min=0)
    for _ in range(LONGEST):
        found = []
        for at, lm in enumerate(models):
            out = lm.model(
                input_ids=new, attention_mask=mask, position_ids=places, past_key_values=caches[at], use_cache=True
            )
            caches[at] = out.past_key_values
            found.append(out.logits[:, -1].float())
        own = found[-1]
        logits = own + sum(each - own for each in found[:-1]) if summed else sum(found) / len(found)
        token = logits.argmax(-1)
        ended |= torch.tensor([int(one) in base.ends for one in token])
        if ended.all():
            break
        for row, one in enumerate(token.tolist()):
            written[row] += [] if ended[row] else [one]
        new, places = token[:, None], places[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(new)], 1)
    texts = base.tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text if done else "" for text, done in zip(texts, ended.tolist(), strict=True)]


def merged(loras: Sequence[Adapter], rank: int | str, strength: float = 1.0, **how) -> Adapter:
    return merge([(one, strength, strength) for one in loras], MergeSettings(rank=rank, **how)).adapter


def scaled(adapter: Adapter, factor: float) -> Adapter:
    """ΔW times a factor."""
    return merged([adapter], "sum", factor, method="concat")


def cells(row: dict, names: Sequence[str]) -> list[str]:
    accuracy = sum(row[name] for name in names) / len(names)
    return [f"{accuracy:.2f}", *(f"{row[name]:.2f}" for name in names), f"{row['others']:.2f}"]


def table(bench: Bench, key: str, chosen: dict[str, Adapter], ranks: Sequence[int]) -> None:
    """Every way to put some LoRAs together."""
    names, loras = list(chosen), list(chosen.values())
    print(f"| | rank | norm / sum | accuracy | {' | '.join(names)} | others | at the sum's norm | others |")
    print("|---" * (len(names) + 7) + "|")
    stack = merged(loras, "sum", method="concat")
    whole, total = norm(stack), sum(max(m.low_rank().rank for m in one.modules.values()) for one in loras)
    for title, how in WAYS.items():
        for rank in ("sum",) if how["method"] in UNCUT else ranks:
            result = merged(loras, rank, **how)
            ratio = norm(result) / whole
            row = [title, str(total if rank == "sum" else rank), f"{ratio:.2f}"]
            row += cells(bench.measured(f"{key} {title} {rank}", lambda r=result: r, names), names)
            if abs(ratio - 1) > 0.05:
                again = bench.measured(
                    f"{key} {title} {rank} scaled", lambda r=result, x=ratio: scaled(r, 1 / x), names
                )
                found = cells(again, names)
                row += [found[0], found[-1]]
            else:
                row += ["–", "–"]
            print(f"| {' | '.join(row)} |", flush=True)
    if key != "mixed":
        return
    for title, summed in ENSEMBLES.items():
        found = bench.asked_together(f"{key} {title}", names, summed)
        print(f"| {title} | – | – | {' | '.join(cells(found, names))} | – | – |", flush=True)


def mixed(bench: Bench) -> None:
    print(f"\n### {bench.base}: four tasks in one\n")
    table(bench, "mixed", bench.loras, (8, 16))


def ranks(bench: Bench) -> None:
    """LoRAs of rank 8, 6, 4 and 3: the first as it is, the others by ``lora-graft resize``."""
    cut = {task: resize(bench.loras[task], ResizeSettings("rank", rank)).adapter for task, rank in MIXED.items()}
    told = ", ".join(f"{task} {rank}" for task, rank in MIXED.items())
    alone = [bench.measured(f"rank {rank} {task}", lambda t=task: cut[t], [task])[task] for task, rank in MIXED.items()]
    print(f"\n### {bench.base}: mixed ranks ({told})\n")
    print(f"Alone: {', '.join(f'{task} {found:.2f}' for task, found in zip(MIXED, alone, strict=True))}.\n")
    table(bench, "ranks", cut, (8, 12))


def pairs(bench: Bench) -> None:
    """Each two of the LoRAs at the rank of one."""
    print(f"\n### {bench.base}: two tasks in one\n\nMean of the six pairs, and the worst pair.\n")
    print("| | rank | accuracy | worst | others |\n|---|---|---|---|---|")
    every = list(itertools.combinations(tasks.NEW, 2))

    def row(title: str, rank: str, found: list[dict]) -> None:
        right = [sum(one[task] for task in two) / 2 for one, two in zip(found, every, strict=True)]
        others = sum(one["others"] for one in found) / len(found)
        print(f"| {title} | {rank} | {sum(right) / len(right):.2f} | {min(right):.2f} | {others:.2f} |", flush=True)

    for title, how in WAYS.items():
        rank, found = "sum" if how["method"] in UNCUT else 8, []
        for two in every:
            loras = [bench.loras[task] for task in two]
            key = f"pairs {'+'.join(two)} {title}"
            found.append(bench.measured(key, lambda ls=loras, r=rank, h=how: merged(ls, r, **h), two))
        row(title, "16" if rank == "sum" else "8", found)
    for title, summed in ENSEMBLES.items():
        row(title, "–", [bench.asked_together(f"pairs {'+'.join(two)} {title}", two, summed) for two in every])


def prune(bench: Bench) -> None:
    """Each LoRA alone at k ranks, mean of the four."""
    ways: dict[str, Callable[[Adapter, int], Adapter]] = {
        "SVD cut (`resize`)": lambda one, k: resize(one, ResizeSettings("rank", k)).adapter,
        "LEGO": lambda one, k: merged([one], k, method="lego"),
        "LEGO as printed": lambda one, k: merged([one], k, method="lego", units="paper"),
    }
    print(f"\n### {bench.base}: one LoRA of rank 8 pruned\n\nAccuracy on its task, mean of the four.\n")
    print(f"| rank | {' | '.join(ways)} |\n|---|---|---|---|")
    for k in (6, 4, 3, 2, 1):
        row = []
        for title, way in ways.items():
            found = [
                bench.measured(f"prune {k} {title} {task}", lambda w=way, o=one, k=k: w(o, k), [task])[task]
                for task, one in bench.loras.items()
            ]
            row.append(f"{sum(found) / len(found):.2f}")
        print(f"| {k} | {' | '.join(row)} |", flush=True)


def taught(bench: Bench) -> None:
    """All four merged by what they answer."""
    names, base = list(bench.loras), FOLDER / bench.base

    def made() -> Adapter:
        given = [
            (lora(task, bench.base), TextData([Example(*pair) for pair in tasks.pairs(task, 5, 10)], samples=100))
            for task in names
        ]
        return teach_several(given, base, base, TEACHING, run=TextRun(bench.ledger.file.parent / "taught", 25)).adapter

    print(f"\n### {bench.base}: four taught to one\n\n| rank | accuracy | {' | '.join(names)} | others |")
    print("|---" * (len(names) + 3) + "|")
    print(f"| 8 | {' | '.join(cells(bench.measured('taught', made, names), names))} |")


PARTS = {part.__name__: part for part in (mixed, pairs, ranks, prune, taught)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--bases", nargs="+", default=["old"], choices=["old", "other"])
    parser.add_argument("--out", type=Path, default=Path("out/llm"))
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    ledger = Ledger(asked.out / "llm_merge.jsonl")
    for base in asked.bases:
        for part in asked.parts or PARTS:
            PARTS[part](Bench(base, ledger))


if __name__ == "__main__":
    main()
