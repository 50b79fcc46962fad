"""What distilling does to pictures that a LoRA is not for: ``python benchmarks/quality_guard.py [--only EFFECT …]``.

Every effect of base A is taught to S, another seed, from nothing in 100 steps, with a share of the prompts being guard
prompts. Columns: lift as in quality.py (of the new class: how surely the judge sees it, over what the LoRA trained on
S gives); other: class accuracy of the digits that are asked for without the trigger; action of the LoRA on A and of the
new adapter on S on guard prompts that were not learnt from, as the report gives them; beyond: by how much more the new
adapter moves them, mean.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.family import judge, materialize, text
from lora_graft.family.sample import sample
from lora_graft.jobs.distill.denoiser import Teacher
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.prompts import PromptSettings, synthesize
from lora_graft.jobs.distill.schedule import Training
from quality_distill import DRAWING, Bench

SHARES = (0.0, 0.125, 0.25, 0.5)
EFFECTS = (materialize.CONCEPT, *materialize.EFFECTS)


def prompts_for(effect: str, lora: Adapter, share: float | None, seed: int, count: int = 64) -> list[str]:
    """Synthetic Prompts from the seeds that a user would write."""
    everything = [(d, c) for d in range(10) for c in range(4)]
    concept = effect == materialize.CONCEPT
    seeds = [text.concept_prompt(c) for c in range(4)] if concept else [text.prompt(*pair) for pair in everything]
    settings = PromptSettings(seeds, lora, template="{seed}", count=count, seed=seed, guard_share=share)
    return synthesize(settings).lines


def others(name: str, given: Sequence[tuple[Adapter, float]], seed: int, count: int = 80) -> float:
    """Class accuracy on ordinary digits."""
    index = torch.arange(count)
    digits, colours = index % 10, index // 10 % 4
    lines = [text.prompt(int(d), int(c)) for d, c in zip(digits, colours, strict=True)]
    images = sample(materialize.base(name), materialize.autoencoder(), lines, range(seed, seed + count), adapters=given)
    seen = judge.look(materialize.judge_weights(), images)
    return float(((seen.digits.argmax(1) == digits) & (seen.colours.argmax(1) == colours)).float().mean())


def sureness(name: str, given: Sequence[tuple[Adapter, float]], seed: int, count: int = 40) -> float:
    """How surely the judge sees the new class where it is asked for."""
    lines = [text.concept_prompt(i % 4) for i in range(count)]
    images = sample(materialize.base(name), materialize.autoencoder(), lines, range(seed, seed + count), adapters=given)
    seen = judge.look(materialize.judge_weights(), images)
    return float(judge.concept(materialize.judge_concept(), seen.features).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=EFFECTS)
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--target", default="s")
    parser.add_argument("--bare", action="store_true", help="LoRA files without metadata: trigger words unknown")
    asked = parser.parse_args()
    columns = (
        "effect",
        "guard share",
        "seed",
        "lift",
        "other",
        "share",
        "LoRA on guards",
        "adapter on guards",
        "beyond",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        models = materialize.materialize(folder, text_encoder=False)
        bench, name = Bench(models, 80, materialize.EFFECTS), asked.target
        for effect in asked.only:
            lora = adapters.read(models[f"family_{effect}_a"])
            lora = replace(lora, metadata={}) if asked.bare else lora
            for seed in asked.seeds:
                for share in asked.shares:
                    source, target = bench.denoiser("a"), bench.denoiser(name)
                    teacher = Teacher(source, [bench.denoiser("a", [(lora, 1.0)])])
                    lines = prompts_for(effect, lora, share, seed)
                    data = generate(teacher, target, lines, Generation(64, 100_000 + seed, DRAWING))
                    how = Training(steps=asked.steps, seed=seed, batch=32, accumulation=1)
                    made = distill(data, teacher, target, [lora], Distillation(rank=8, training=how))
                    given, at = [(made.adapter, 1.0)], 1000 * (seed + 1)
                    if effect == materialize.CONCEPT:
                        real = sureness(name, [(adapters.read(models[f"family_star_{name}"]), 1.0)], at)
                        lift = sureness(name, given, at) / real
                    else:
                        lift = bench.score(name, given, at, effect)["lift"]
                    rows = made.report.guards
                    cells: list[float] = [
                        lift,
                        others(name, given, at),
                        made.report.explained,
                        median(row[1] for row in rows),
                        median(row[2] for row in rows),
                        made.report.spilled or 0.0,
                    ]
                    print(
                        f"| {effect} | {share:g} | {seed} | " + " | ".join(f"{c:.2f}" for c in cells) + " |", flush=True
                    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
