"""What is lost from base to base, with little data and between kinds: ``python benchmarks/quality_chain.py``.

Parts (``--only``): ``chain`` (A's LoRAs taken A → B → C → S → W and back to A, each hop's result being what the next
one has),
``scaling`` (A → S by the number of samples, of prompts and of seed prompts given to the generator), ``kinds`` (every
kind of adapter as the teacher's and as the student's, A → B and A → S).

Figures are those of quality_distill.py: lift is 0 without effect and 1 for a LoRA trained on that base's real data; ±
is half the difference between two sets of seeds (of drawing, learning and judging alike). What is not varied is at the
product's defaults, drawing aside (64 pixels, 10 steps at cfg 3).

Every result is written to ``--folder`` as it comes, chains and teachers with their adapters; the same call goes on
where a broken one stopped, and the tables in ``tables.md`` there always show all that is known.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lora_graft import adapters, choices
from lora_graft.adapters import Adapter
from lora_graft.errors import AdapterError
from lora_graft.family import materialize, text
from lora_graft.jobs.distill.prompts import PromptSettings, synthesize
from quality_distill import Bench, Rows
from quality_merge import spread

CHAIN = ("b", "c", "s", "w", "a")
RELATED = {("a", "b"), ("b", "c")}  # pairs between which a copy is a start
RANKS = {"lora": 8, "lora-x": 48, "lora-x-diagonal": 192, "loha": 4, "lokr": 8, "dora": 8}
SAMPLES = (8, 16, 32, 64, 128, 256)
PROMPTS = (1, 2, 5, 10, 50)
SEEDS = (1, 2, 5, 10)
Figures = dict[str, float]


class Results:
    """Figures and adapters in a folder.

    A result is named by part, table, row, column, seed and effect.
    """

    def __init__(self, folder: Path):
        self.folder, self.known = folder, {}
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "results.jsonl"
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                key, figures = json.loads(line)
                self.known[tuple(key)] = figures

    def adapter(self, name: str, make: Callable[[], Adapter]) -> Adapter:
        """The adapter of that name, made if there is none."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            adapters.write(make(), path)
        return adapters.read(path)

    def figures(self, *key, make: Callable[[], Figures]) -> None:
        """Find and write down one result, unless it is known."""
        if key in self.known:
            return
        started = time.monotonic()
        self.known[key] = make()
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, self.known[key]]) + "\n")
        (self.folder / "tables.md").write_text(self.markdown() + "\n", encoding="utf-8")
        seen = ", ".join(f"{name} {value:.2f}" for name, value in self.known[key].items())
        print(*key, seen, f"{time.monotonic() - started:.0f} s", sep=" | ", file=sys.stderr, flush=True)

    def markdown(self) -> str:
        """All tables. Those with columns: one for each effect, lift and class accuracy; the others: every figure."""
        tables: dict[str, dict] = {}
        for (_, title, row, column, seed, effect), figures in self.known.items():
            tables.setdefault(f"{title}; {effect}" if column else title, {})[row, column, seed, effect] = figures
        return "\n\n".join(
            grid(title, found) if next(iter(found))[1] else listed(title, found) for title, found in tables.items()
        )


def listed(title: str, found: dict[tuple, Figures]) -> str:
    """One row for each way."""
    rows = Rows(title)
    for (row, _, seed, _), figures in found.items():
        rows.keep(row, seed, figures)
    return rows.markdown()


def grid(title: str, found: dict[tuple, Figures]) -> str:
    """Rows by columns; a cell is the lift and the class accuracy."""
    rows, columns = ([*dict.fromkeys(key[i] for key in found)] for i in (0, 1))
    columns.sort(key=lambda column: column[0] if column[0].isdigit() else "")  # hops in their order
    lines = [f"### {title}", "", "| |" + "".join(f" {c} |" for c in columns), "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = []
        for column in columns:
            seeds: dict[int, list[Figures]] = {}
            for (r, c, seed, _), figures in found.items():
                if (r, c) == (row, column):
                    seeds.setdefault(seed, []).append(figures)
            means = [
                [sum(f[name] for f in figures) / len(figures) for figures in seeds.values()]
                for name in ("lift", "class accuracy")
            ]
            cells.append(", ".join(spread(mean, ".2f") for mean in means) if seeds else "–")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def taught(
    bench: Bench, effect: str, target: str, seed: int, *, warm: bool = False, **settings
) -> tuple[Adapter, Figures]:
    """An adapter distilled with the product's defaults, and what the report says. warm: from the copy, if related."""
    settings = {"steps": choices.Distill.steps, "rank": choices.Distill.rank} | settings
    start = bench.project(bench.loras[effect], target, "copy") if warm and (bench.source, target) in RELATED else None
    adapter, cost, seen = bench.taught([effect], target, seed, start=start, **settings)
    return adapter, {"share of the effect": seen, "evaluations": cost}


def moved(bench: Bench, effect: str, target: str, seed: int, *, method: str) -> tuple[Adapter, Figures]:
    """An adapter by weights alone."""
    return bench.project(bench.loras[effect], target, method), {}


@dataclass(frozen=True)
class Way:
    """How an adapter gets to the next base.

    hop: (bench at the source, effect, target, seed) → the target's adapter and figures about its making.
    begin: which of A's adapters it begins with. onward: whether the next hop starts here, or at A again.
    """

    hop: Callable[[Bench, str, str, int], tuple[Adapter, Figures]]
    begin: str = "family_{}_a"
    onward: bool = True


WAYS = {
    "copied": Way(partial(moved, method="copy")),
    "projected (lora-x)": Way(partial(moved, method="lora-x")),
    "LoRA-X adapter, projected (lora-x)": Way(partial(moved, method="lora-x"), begin="family_{}_lorax_a"),
    "rotated": Way(partial(moved, method="rotate")),
    "distilled": Way(taught),
    "distilled, from the copy between relatives": Way(partial(taught, warm=True)),
    "distilled from A in one hop": Way(taught, onward=False),
}


def chain(
    bench: Bench, results: Results, seeds: Sequence[int], ways: Mapping[str, Way] = WAYS, bases: Sequence[str] = CHAIN
) -> None:
    """Hop by hop. A base that a way cannot reach is passed over; the next one then starts from the one before it."""
    title = "A → " + " → ".join(base.upper() for base in bases)
    for seed, effect, (name, way) in itertools.product(seeds, bench.effects, ways.items()):
        first = here = bench.at("a", {effect: adapters.read(bench.models[way.begin.format(effect)])})
        for number, target in enumerate(bases, 1):
            extra: Figures = {}

            def make(
                here=here, target=target, way=way, number=number, effect=effect, seed=seed, extra=extra
            ) -> Adapter:
                adapter, figures = way.hop(here, effect, target, seed + 10 * number)
                extra.update(figures)
                return adapter

            def score(adapter: Adapter, target=target, effect=effect, seed=seed, extra=extra) -> Figures:
                return bench.score(target, [(adapter, 1.0)], seed, effect) | extra

            try:
                adapter = results.adapter(re.sub(r"\W+", "_", f"{title} {name} {effect} {seed} {number}"), make)
            except AdapterError as problem:
                print(f"{name}, {target}: {str(problem).splitlines()[0]}", file=sys.stderr)
                continue
            key = ("chain", title, name, f"{number}: {target.upper()}", seed, effect)
            results.figures(*key, make=partial(score, adapter))
            here = bench.at(target, {effect: adapter}) if way.onward else first


def task_prompts(seed: int) -> list[str]:
    """Different prompts of the task in a random order: 40 in the plain wording, then 40 in another."""
    pairs = [(digit, colour) for digit in range(10) for colour in range(4)]
    random.Random(seed).shuffle(pairs)
    return [text.prompt(*pair) for pair in pairs] + [
        f"a photo of a {text.COLOURS[c]} {text.DIGITS[d]}" for d, c in pairs
    ]


def scaling(bench: Bench, results: Results, seeds: Sequence[int], target: str = "s") -> None:
    """By samples (random prompts of the task), by prompts (64 samples), by seeds of the generator (with the tags)."""

    def figures(effect: str, seed: int, lines: list[str] | None, count: int) -> Figures:
        data = bench.dataset([effect], target, seed, lines, count)
        adapter, extra = taught(bench, effect, target, seed, dataset=data)
        return bench.score(target, [(adapter, 1.0)], seed, effect) | extra

    for seed in seeds:
        lines = task_prompts(seed)
        for effect in bench.effects:
            cases = [("samples", count, None, count) for count in SAMPLES]
            cases += [("different prompts, 64 samples", n, lines[:n], 64) for n in PROMPTS]
            for count in SEEDS:
                made = synthesize(PromptSettings(lines[:count], bench.loras[effect], seed=seed)).lines
                cases.append(("seed prompts for the generator, with the LoRA's tags; 64 samples", count, made, 64))
            for what, number, given, count in cases:
                key = ("scaling", f"A → {target.upper()} by number of {what}", str(number), "", seed, effect)
                results.figures(*key, make=partial(figures, effect, seed, given, count))


def kinds(bench: Bench, results: Results, seeds: Sequence[int], targets: str = "bs", ranks=RANKS) -> None:
    """Every kind as the teacher's (distilled on A from its LoRA) for a LoRA and for a student of its own kind, and the
    LoRA as the teacher of every kind; ranks with about as many numbers as a LoRA of rank 8.
    """

    def figures(here: Bench, effect: str, target: str, seed: int, kind: str) -> Figures:
        adapter, extra = taught(here, effect, target, seed, kind=kind, rank=ranks[kind])
        return bench.score(target, [(adapter, 1.0)], seed, effect) | extra

    for seed, effect, (teacher, rank) in itertools.product(seeds, bench.effects, ranks.items()):

        def make(effect=effect, seed=seed, teacher=teacher, rank=rank) -> Adapter:
            return taught(bench, effect, "a", seed, kind=teacher, rank=rank)[0]

        own = bench.loras[effect] if teacher == "lora" else results.adapter(f"{teacher}_{effect}_{seed}", make)
        here, row = bench.at("a", {effect: own}), f"{teacher}, rank {rank}"
        for target in targets:
            key = ("kinds", f"Kinds, A → {target.upper()}: the teacher's adapter by row, the student by column", row)
            alone = partial(bench.score, "a", [(own, 1.0)], seed, effect)
            results.figures(*key, "the teacher on A", seed, effect, make=alone)
            for kind in ranks if teacher == "lora" else ("lora", teacher):
                results.figures(*key, kind, seed, effect, make=partial(figures, here, effect, target, seed, kind))


PARTS = ("chain", "scaling", "kinds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("out/quality_chain"), help="for results, tables, adapters")
    parser.add_argument("--effects", nargs="+", choices=materialize.EFFECTS, default=materialize.EFFECTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000, 2000])
    parser.add_argument("--bases", nargs="+", choices=CHAIN, default=CHAIN, help="of the part chain, from A onwards")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="of the part chain")
    parser.add_argument("--pictures", type=int, default=80, help="pictures per set, at best a multiple of 40")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = materialize.materialize(options.folder / "models", text_encoder=False)
    bench, results = Bench(models, options.pictures, options.effects), Results(options.folder)
    ways = {way: WAYS[way] for way in options.ways}
    parts = {"chain": partial(chain, ways=ways, bases=options.bases), "scaling": scaling, "kinds": kinds}
    for part in options.only:
        parts[part](bench, results, options.seeds)
    print(results.markdown())


if __name__ == "__main__":
    main()
