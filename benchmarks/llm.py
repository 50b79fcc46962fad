"""What Trans-LoRA recovers on text, measured as right answers: ``python benchmarks/llm.py [PART …] [--out FOLDER]``.

Parts: ``pairs`` (the paper's table: LoRAs for four tasks, taught to a newer base and to one of another layout and
tokenizer, and back; ``--ways`` and ``--rows`` measure some of it), ``samples``, ``seeds``, ``hops`` and ``kinds``.
Models and LoRAs are those of family/language.

Accuracy: share of 200 new prompts of the task that get the right answer, to the letter. Others: the same for the
twelve tasks that every base knows, 20 prompts each. Accepted: prompts learnt from. Tokens: read and written by
generator, teacher and student. ± is half the range over seeds.

Every figure is kept in ``FOLDER/llm.jsonl`` as soon as it is measured; the same call goes on there, and prints the
tables from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from ledger import Ledger
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.bases import open_base
from lora_graft.choices import Text
from lora_graft.family.language import FOLDER, tasks
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.language.answers import answer
from lora_graft.language.discriminator import save
from lora_graft.language.fit import fit_discriminator
from lora_graft.language.job import teach
from lora_graft.language.run import TextRun
from lora_graft.language.settings import Example, TextData, TextDistillation

PAIRS = (("old", "new"), ("old", "other"), ("other", "old"))
TITLES = {
    "source": "source with its LoRA",
    "alone": "target alone",
    "copy": "copied",
    "lora-x": "projected (LoRA-X)",
    "random": "Trans-LoRA, random prompts",
    "unfiltered": "Trans-LoRA without discriminator",
    "printed": "Trans-LoRA as printed",
    "whole": "**Trans-LoRA with guard texts**, the default",
    "difference": "the same, difference of logits",
    "real": "trained on as many real pairs",
    "guarded": "the same with guard texts",
}
TAUGHT = ("random", "unfiltered", "printed", "whole", "difference", "real", "guarded")
GUARDED = ("whole", "difference", "guarded")
SAMPLES = 300
SETTINGS = TextDistillation(rank=8, max_new_tokens=20, training=Training(steps=200, batch=32, accumulation=1))
ASKING = replace(SETTINGS, training=Training(batch=64))
ASKED, EACH, REAL = 200, 20, 200  # prompts of the task, of each known one, and real ones for a discriminator
PARTS = ("pairs", "samples", "seeds", "hops", "kinds")
REST = ("others", "accepted", "tokens")


class Bench:
    """Ways to take a LoRA over, and how well they do."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.measured = Ledger(folder / "llm.jsonl").measured

    def judged(self, base: str, task: str, adapter: Adapter | None = None) -> dict:
        """Accuracy on a task, and on all that the bases know."""
        asked = tasks.pairs(task, ASKED, 7)
        for name in tasks.KNOWN:
            asked += tasks.pairs(name, EACH, 8)
        said = answer(FOLDER / base, [prompt for prompt, _ in asked], adapter, settings=ASKING)
        right = [one is not None and one.strip() == wanted for one, (_, wanted) in zip(said, asked, strict=True)]
        return {"accuracy": sum(right[:ASKED]) / ASKED, "others": sum(right[ASKED:]) / len(right[ASKED:])}

    def discriminator(self, base: str, task: str) -> Path:
        """A folder, made once for each LoRA of the family."""
        folder = self.folder / f"discriminator_{task}_{base}"
        if not folder.exists():
            real = [Example(*pair) for pair in tasks.pairs(task, REAL, 5)]
            save(fit_discriminator(FOLDER / base, real, lora=lora(task, base)), folder)
        return folder

    def row(self, name: str, task: str, source: str, target: str, seed: int) -> dict:
        """One way to take a LoRA over."""
        if name in ("source", "alone"):
            where, on = (source, adapters.read(lora(task, source))) if name == "source" else (target, None)
            return self.judged(where, task, on)
        if name not in TAUGHT:
            how = TransferSettings(method=name)
            bases = [open_base(FOLDER / base) for base in (source, target)]
            made = transfer(adapters.read(lora(task, source)), *bases, how).adapter
            return self.judged(target, task, made)
        data = self.data(name, task, source, seed)
        if name in ("real", "guarded"):
            return self.taught(task, None, None, target, data, SETTINGS, seed)
        goal = replace(SETTINGS, objective="difference" if name == "difference" else "answers")
        return self.taught(task, lora(task, source), source, target, data, goal, seed)

    def data(self, name: str, task: str, source: str, seed: int, samples: int = SAMPLES, shown: int = 5) -> TextData:
        """What a row's student learns from."""
        share = Text.guard_share_text if name in GUARDED else 0.0
        if name in ("real", "guarded"):
            pairs = [Example(*pair) for pair in tasks.pairs(task, samples, 20 + seed)]
            return TextData(pairs=pairs, guard_share=share)
        if name == "random":
            return TextData(prompts=random_prompts(samples, seed), guard_share=share)
        seeds = [Example(*pair) for pair in tasks.pairs(task, shown, 10 + seed)]
        judge = self.discriminator(source, task) if name != "unfiltered" else None
        return TextData(seeds, discriminator=judge, samples=samples, seed=seed, guard_share=share)

    def taught(
        self, task: str, adapter: Path | Adapter | None, source: str | None, target: str, data, how, seed: int
    ) -> dict:
        how = replace(how, training=replace(how.training, seed=seed))
        kept = TextRun(self.folder / f"run_{task}_{source}_{target}", 0)  # prompts and answers that rows share
        result = teach(adapter, None if source is None else FOLDER / source, FOLDER / target, data, how, run=kept)
        self.last, report = result.adapter, result.report
        counted = {"accepted": report.accepted, "tokens": sum(report.tokens.values())}
        counted |= {"own before": report.own_before, "own after": report.own_after}
        counted |= {"agreement": report.agreement_after, "rejected": report.rejected}
        return self.judged(target, task, result.adapter) | counted


def lora(task: str, base: str) -> Path:
    return FOLDER / f"{task.lower()}_{base}"


def random_prompts(count: int, seed: int) -> list[str]:
    """Text of the bases' training: prompts of what they know, and of names that mean nothing."""
    dice, found = Random(f"random {seed}"), {}
    while len(found) < count:
        name = dice.choice([*tasks.KNOWN, tasks.nonsense(dice)])
        found[tasks.prompt(name, tasks.word(dice))] = None
    return list(found)


def mean(figures: Iterable[dict], name: str) -> str:
    """Mean and half the range of one figure over runs; a dash where there is none."""
    values = [row[name] for row in figures if name in row]
    if not values:
        return "–"
    middle, half = sum(values) / len(values), (max(values) - min(values)) / 2
    if name in ("accepted", "tokens", "rejected"):
        return f"{middle:,.0f}"
    if name == "others":  # tasks among them, whose range says nothing of chance
        return f"{middle:.2f}"
    return f"{middle:.2f}" + (f" ± {half:.2f}" if half >= 0.005 else "")


def pairs(bench: Bench, seeds: range, ways: list[str], names: list[str]) -> None:
    shared = {("old", "new")}
    for source, target in PAIRS:
        if ways and f"{source}-{target}" not in ways:
            continue
        print(f"\n### {source} → {target}\n")
        print(f"| | {' | '.join(tasks.NEW)} | others | accepted | tokens |")
        print(f"|---|{'---|' * (len(tasks.NEW) + 3)}")
        for name, title in TITLES.items():
            if names and name not in names:
                continue
            if (source, target) not in shared and name in ("copy", "lora-x", "difference"):
                continue  # no weight of the one has a place in the other, and no token
            drawn = seeds if name in TAUGHT else range(1)
            runs = {
                task: [
                    bench.measured(
                        f"pairs {source} {target} {name} {task} {seed}",
                        lambda r=(name, task, source, target, seed): bench.row(*r),
                    )
                    for seed in drawn
                ]
                for task in tasks.NEW
            }
            every = [row for rows in runs.values() for row in rows]
            cells = [mean(rows, "accuracy") for rows in runs.values()]
            print(f"| {title} | {' | '.join(cells)} | " + " | ".join(mean(every, n) for n in REST) + " |")


def counted(bench: Bench, part: str, seeds: range) -> None:
    """Accuracy by the number of samples, or of seed examples; old → other."""
    numbers = (10, 30, 100, 300, 1000) if part == "samples" else (1, 5, 20)
    print(f"\n### Number of {part}, old → other, mean of four tasks\n\n| {part} | accuracy | others | tokens |")
    print("|---|---|---|---|")
    for number in numbers:
        how = dict(samples=number) if part == "samples" else dict(shown=number)
        rows = []
        for task in tasks.NEW:
            for seed in seeds:

                def measure(task=task, seed=seed, how=how) -> dict:
                    data = bench.data("whole", task, "old", seed, **how)
                    return bench.taught(task, lora(task, "old"), "old", "other", data, SETTINGS, seed)

                rows.append(bench.measured(f"{part} {number} {task} {seed}", measure))
        print(f"| {number} | {mean(rows, 'accuracy')} | {mean(rows, 'others')} | {mean(rows, 'tokens')} |")


def hops(bench: Bench, seeds: range) -> None:
    """old → new → other → old, one LoRA after another."""
    way = ("old", "new", "other", "old")
    print(f"\n### Hops\n\n| on | {' | '.join(tasks.NEW)} | others |\n|---|{'---|' * (len(tasks.NEW) + 1)}")
    runs: dict[int, dict[str, list[dict]]] = {hop: {task: [] for task in tasks.NEW} for hop in range(1, len(way))}
    for task in tasks.NEW:
        for seed in seeds:
            on: Path | Adapter = lora(task, way[0])
            for hop, (source, target) in enumerate(zip(way, way[1:], strict=False), 1):
                kept = bench.folder / f"hop_{task}_{seed}_{hop}"

                def measure(on=on, source=source, target=target, kept=kept, task=task, seed=seed) -> dict:
                    data = bench.data("whole", task, "old", seed)
                    data = replace(data, discriminator=None)  # it is the first source's own
                    figures = bench.taught(task, on, source, target, data, SETTINGS, seed)
                    adapters.write(bench.last, kept, layout="peft")
                    return figures

                runs[hop][task].append(bench.measured(f"hops {hop} {task} {seed}", measure))
                on = kept
    for hop, rows in runs.items():
        cells = " | ".join(mean(rows[task], "accuracy") for task in tasks.NEW)
        every = [row for task in tasks.NEW for row in rows[task]]
        print(f"| {hop}: {way[hop]} | {cells} | {mean(every, 'others')} |")


def kinds(bench: Bench, seeds: range) -> None:
    """Kinds of student, old → other."""
    print(f"\n### Kinds, old → other\n\n| kind | {' | '.join(tasks.NEW)} | others |")
    print(f"|---|{'---|' * (len(tasks.NEW) + 1)}")
    for kind in Text.kinds:
        runs = {}
        for task in tasks.NEW:

            def measure(seed: int, task=task, kind=kind) -> dict:
                data, how = bench.data("whole", task, "old", seed), replace(SETTINGS, kind=kind)
                return bench.taught(task, lora(task, "old"), "old", "other", data, how, seed)

            runs[task] = [
                bench.measured(f"kinds {kind} {task} {seed}", lambda seed=seed, m=measure: m(seed)) for seed in seeds
            ]
        every = [row for rows in runs.values() for row in rows]
        cells = " | ".join(mean(rows, "accuracy") for rows in runs.values())
        print(f"| {kind} | {cells} | {mean(every, 'others')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("out/llm"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=[], help="of pairs: " + ", ".join(map("-".join, PAIRS)))
    parser.add_argument("--rows", nargs="+", default=[], choices=TITLES, help="of pairs")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    bench, seeds = Bench(asked.out), range(asked.seeds)
    for part in asked.parts or PARTS:
        if part == "pairs":
            pairs(bench, seeds, asked.ways, asked.rows)
        elif part in ("samples", "seeds"):
            counted(bench, part, seeds)
        else:
            {"hops": hops, "kinds": kinds}[part](bench, seeds)


if __name__ == "__main__":
    main()
