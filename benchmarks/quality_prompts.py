"""Prompts written for distilling against five seeds and the template: ``python benchmarks/quality_prompts.py``.

Base A's LoRAs are taught to S as in quality_distill.py, which holds the columns' meaning; only the prompts of the
dataset differ. The family's text encoder knows a few dozen words and no language model writes about them, so that the
language model here is a stand-in: a function that says digits and colours in other words than the seeds, as a good
model would, or one of whose prompts a half are about neither, as of a model that strays. What real models write is not
measured by it, but what becomes of such lists is.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path
from random import Random

import torch
from lora_graft.family import materialize, text
from lora_graft.jobs.distill.prompts import PromptSettings, synthesize
from quality_distill import Bench, Rows

FIVE = ["white digit zero", "red digit two", "a green three", "number four in blue ink", "blue digit six"]
FRAMES = ["a {colour} {digit}", "{colour} number {digit}", "the digit {digit} in {colour} ink", "{digit} in {colour}"]
STRAY = [
    ["a bright", "a dark", "a bold", "a neat", "a simple", "a small", "a big"],
    ["sketch", "painting", "photo", "figure", "sign", "drawing", "picture"],
    ["by hand", "with a background", "in paint", "on a sign", "and a single image"],
]
COUNT = 32


class StandIn:
    """Writes a numbered list; `stray` is the share of its prompts that have nothing to do with the task."""

    def __init__(self, stray: float):
        self.stray = stray

    def __call__(self, asked: str, temperature: float, seed: int) -> str:
        dice, first = Random(seed), int(re.search(r"(\d+)\.$", asked)[1])
        lines = []
        for number in range(first, first + 16):
            frame = dice.choice(FRAMES)
            line = frame.format(colour=dice.choice(text.COLOURS), digit=dice.choice(text.DIGITS))
            stray = dice.random() < self.stray
            lines.append(f"{number}. {' '.join(map(dice.choice, STRAY)) if stray else line}")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--effects", nargs="+", choices=materialize.EFFECTS, default=materialize.EFFECTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000, 2000])
    parser.add_argument("--pictures", type=int, default=80, help="pictures per set, at best a multiple of 40")
    parser.add_argument("--out", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, rows = time.monotonic(), Rows("Prompts that were written, A → S, 100 steps")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(materialize.materialize(folder, text_encoder=False), options.pictures, options.effects)
        for seed in options.seeds:
            for effect in options.effects:
                asked = PromptSettings(FIVE, bench.loras[effect], count=COUNT, seed=seed)
                sources = {
                    "five seed prompts": FIVE,
                    "template: seed prompts and tags": synthesize(asked).lines,
                    "stand-in that keeps to the task": synthesize(asked, StandIn(0)).lines,
                    "stand-in, half of its prompts off the task": synthesize(asked, StandIn(0.5)).lines,
                }
                for row, lines in sources.items():
                    data = bench.dataset([effect], "s", seed, lines)
                    adapter, cost, seen = bench.taught([effect], "s", seed, steps=100, dataset=data)
                    figures = bench.score("s", [(adapter, 1.0)], seed, effect)
                    rows.add(row, seed, effect, figures | {"share of the effect": seen, "evaluations": cost})
    end = (
        f"Effects {', '.join(options.effects)}; {options.pictures} pictures per figure, {len(options.seeds)} sets of "
        f"seeds, 10 Euler steps at cfg 3; {time.monotonic() - start:.0f} s."
    )
    print(f"{rows.markdown()}\n\n{end}")
    if options.out:
        options.out.write_text(f"{rows.markdown()}\n\n{end}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
