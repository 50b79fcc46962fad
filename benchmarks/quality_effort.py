"""Effect and side effects by what a distillation costs: ``python benchmarks/quality_effort.py [--out FILE]``.

Every effect of base A, the styles and the new class, is taught to B, C, S and W with the efforts of choices.py, from a
copy or from nothing, and the prompts that Synthetic Prompts makes unless told otherwise. Columns: lift (of styles as in
quality.py; of the new class how surely the judge sees it, over the LoRA's own on A), other (class accuracy of ordinary
digits, of the new class only, the styles' own class accuracy else), share (of the effect, as the report gives it) and
evaluations, all of them. Each run is a line of FILE as soon as it is done; the same call goes on.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from ledger import Ledger
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.choices import Budget, Prompts
from lora_graft.family import materialize
from lora_graft.jobs.distill.denoiser import Teacher
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.effort import planned, samples
from lora_graft.jobs.distill.generate import Generation, generate
from quality_distill import DRAWING, Bench
from quality_guard import EFFECTS, others, prompts_for, sureness

TARGETS = ("b", "c", "s", "w")
RELATIVES = ("b", "c")
WAYS = {  # (effort, start)
    "copy": None,
    "quick from the copy": ("quick", "copy"),
    "normal from the copy": ("normal", "copy"),
    "normal from nothing": ("normal", "none"),
    "thorough from the copy": ("thorough", "copy"),
    "thorough from nothing": ("thorough", "none"),
}


class Efforts:
    def __init__(self, models: dict[str, Path]):
        self.bench = Bench(models, 80, materialize.EFFECTS)
        self.loras = {effect: adapters.read(models[f"family_{effect}_a"]) for effect in EFFECTS}
        self.own: dict[int, float] = {}

    def copied(self, effect: str, target: str) -> Adapter:
        return self.bench.project(self.loras[effect], target, "copy")

    def made(self, effect: str, target: str, way: tuple[str, str], seed: int) -> tuple[Adapter, dict]:
        effort, start = way
        lora, student = self.loras[effect], self.bench.denoiser(target)
        teacher = Teacher(self.bench.denoiser("a"), [self.bench.denoiser("a", [(lora, 1.0)])])
        lines = prompts_for(effect, lora, Prompts.guard_share, seed, Prompts.count)
        data = generate(teacher, student, lines, Generation(samples(effort), 100_000 + seed, DRAWING))
        plan = planned(effort, batch=Budget.at_once[effort], seed=seed)
        begin = self.copied(effect, target) if start == "copy" else None
        how = Distillation(rank=8, noisy_latents=plan.noisy_latents, training=plan.training)
        result = distill(data, teacher, student, [lora], how, warm_start=begin)
        figures = {
            "share": result.report.explained,
            "shown": result.report.shown,
            "beyond": result.report.spilled or 0.0,
        }
        return result.adapter, figures | {"evaluations": sum(result.report.evaluations.values())}

    def run(self, effect: str, target: str, name: str, seed: int) -> dict:
        way, row = WAYS[name], dict(effect=effect, target=target, way=name, seed=seed)
        adapter, figures = (self.copied(effect, target), {}) if way is None else self.made(effect, target, way, seed)
        given, at = [(adapter, 1.0)], 1000 * (seed + 1)
        if effect != materialize.CONCEPT:
            found = self.bench.score(target, given, at, effect)
            return row | {"lift": found["lift"], "other": found["class accuracy"]} | figures
        if at not in self.own:
            self.own[at] = sureness("a", [(self.loras[effect], 1.0)], at)
        return row | {"lift": sureness(target, given, at) / self.own[at], "other": others(target, given, at)} | figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/effort.jsonl"))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--targets", nargs="*", default=TARGETS)
    parser.add_argument("--effects", nargs="*", default=EFFECTS)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    ledger = Ledger(asked.out)
    with tempfile.TemporaryDirectory() as folder:
        efforts = Efforts(materialize.materialize(folder, text_encoder=False))
        for name in asked.ways:
            for target in asked.targets:
                if target not in RELATIVES and (WAYS[name] is None or WAYS[name][1] == "copy"):
                    continue
                for effect, seed in itertools.product(asked.effects, range(asked.seeds)):
                    run = (effect, target, name, seed)
                    ledger.measured(" / ".join(map(str, run)), partial(efforts.run, *run))
    table(list(ledger.found.values()), asked.ways, asked.targets)


def table(rows: list[dict], ways: list[str], targets: list[str]) -> None:
    for target in targets:
        print(f"\n### A → {target.upper()}\n\n| way | " + " | ".join(f"{e}: lift, other" for e in EFFECTS), end="")
        print(" | share | evaluations |\n|---" + "|---" * (len(EFFECTS) + 2) + "|")
        for way in ways:
            here = [row for row in rows if row["target"] == target and row["way"] == way]
            if not here:
                continue
            cells = []
            for effect in EFFECTS:
                of = [row for row in here if row["effect"] == effect]
                cells.append(f"{fmean(r['lift'] for r in of):.2f}, {fmean(r['other'] for r in of):.2f}" if of else "–")
            shares = " ".join(f"{row['share']:.2f}" for row in here if "share" in row) or "–"
            spent = [row["evaluations"] for row in here if "evaluations" in row]
            print(f"| {way} | {' | '.join(cells)} | {shares} | {fmean(spent) if spent else 0:,.0f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
