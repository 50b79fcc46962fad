"""What survives a merge, measured on pictures: ``python benchmarks/quality_merge.py [--quick] [--out FILE.md]``.

The example family's LoRAs (frame, slant, stripes, rank 8, trained on base A) are merged two and three at a time by
every method, at the rank of one source and at half the sum of the ranks, and base A draws the same prompts from the
same seeds with each result. The judge says how strong the merged effects are: 1 is full. Every merge is drawn twice:
as the method made it, and scaled to the norm of the exact sum (‖Σ ΔW‖ over all modules), which tells what it lost in
direction from what it lost in size. Class accuracy counts pictures whose digit and colour are both right; the Fréchet
distance is between the judge's features of these pictures and of the exact sum's from other seeds (no real pictures
have several effects; it is biased upwards, so compare within a table only). ± is half the range over sets of seeds.

The family has no LoRA trained on several effects at once; where one is given (--joint FILE) it is drawn beside.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.examples.family import judge, materialize, text
from lora_graft.examples.family.sample import sample
from lora_graft.kernels import lowrank
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge import METHODS, MergeOptions

Model = dict[str, LowRank]


@dataclass(frozen=True)
class Row:
    """title; norm: relative to the exact sum; own, scaled: (seeds, 3) effect strength, class accuracy, Fréchet."""

    title: str
    norm: float
    own: torch.Tensor
    scaled: torch.Tensor


class Studio:
    """Draws and judges: `pictures` per set of seeds, all digits in all colours."""

    def __init__(self, pictures: int, seeds: list[int]):
        index = torch.arange(pictures)
        self.digits, self.colours, self.seeds = index % 10, index // 10 % 4, seeds
        self.prompts = [text.prompt(int(d), int(c)) for d, c in zip(self.digits, self.colours, strict=True)]

    def look(self, model: Model, strength: float, seed: int) -> judge.Verdict:
        images = sample(materialize.base("a"), materialize.autoencoder(), self.prompts,
                        range(seed, seed + len(self.prompts)), adapters=[(adapter_of(model), strength)])
        return judge.look(materialize.judge_weights(), images)

    def figures(self, model: Model, effects: list[int], reference, strength: float = 1.0) -> torch.Tensor:
        """(seeds, 3): mean strength of the effects, class accuracy, Fréchet distance to the reference."""
        rows = []
        for seed in self.seeds:
            seen = self.look(model, strength, seed)
            right = (seen.digits.argmax(1) == self.digits) & (seen.colours.argmax(1) == self.colours)
            rows.append([float(seen.effects[:, effects].mean()), float(right.float().mean()),
                         judge.frechet(judge.gaussian(seen.features), reference)])
        return torch.tensor(rows)


def adapter_of(model: Model) -> Adapter:
    tensors = {}
    for key, update in model.items():
        up, down = (factor.contiguous() for factor in update)
        tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down,
                    f"{key}.alpha": torch.tensor(float(update.rank))}
    return adapters.from_state_dict(tensors)


def source(effect: str) -> Model:
    read = adapters.from_state_dict(materialize.lora_file(effect, "a"))
    return {key: module.low_rank() for key, module in read.modules.items()}


def merged(models: list[Model], method: str, rank: int | None, options: MergeOptions) -> Model:
    return {key: METHODS[method].run([m[key] for m in models], rank, options).update for key in models[0]}


def size(model: Model) -> float:
    return sum(lowrank.norm(update) ** 2 for update in model.values()) ** 0.5


def ways(rank: int) -> list[tuple[str, str, int | None, MergeOptions]]:
    """Title, method, rank and options of every row of a table."""
    rows = [("LEGO", "lego", rank, MergeOptions())]
    rows += [(f"LEGO, {form} units", "lego", rank, MergeOptions(units=form)) for form in ("balanced", "paper")]
    rows += [(METHODS[name].display, name, rank, MergeOptions()) for name in METHODS if name not in ("lego", "concat")]
    return rows


def compare(names: tuple[str, ...], rank: int, studio: Studio, joint: Model | None) -> list[Row]:
    """Every method on one set of LoRAs at one rank, the exact sum first."""
    models = [source(name) for name in names]
    effects = [materialize.EFFECTS.index(name) for name in names]
    whole = merged(models, "concat", None, MergeOptions())
    reference = judge.gaussian(studio.look(whole, 1.0, 9000).features)
    found = studio.figures(whole, effects, reference)
    rows = [Row("exact sum", 1.0, found, found)]
    if joint is not None:
        found = studio.figures(joint, effects, reference)
        rows.append(Row("trained jointly", size(joint) / size(whole), found, found))
    for title, method, limit, options in ways(rank):
        result = merged(models, method, limit, options)
        norm = size(result) / size(whole)
        rows.append(Row(title, norm, studio.figures(result, effects, reference),
                        studio.figures(result, effects, reference, 1 / norm)))
    return rows


def cell(values: torch.Tensor, form: str) -> str:
    spread = f" ± {(values.max() - values.min()) / 2:{form}}" if len(values) > 1 else ""
    return f"{values.mean():{form}}{spread}"


def table(title: str, rows: list[Row]) -> str:
    lines = [f"### {title}", "", "| method | norm | strength | accuracy | Fréchet | strength at the sum's norm "
             "| accuracy | Fréchet |", "|---|---|---|---|---|---|---|---|"]
    forms = (".2f", ".2f", ".1f")
    for row in rows:
        cells = [cell(part[:, i], form) for part in (row.own, row.scaled) for i, form in enumerate(forms)]
        lines.append(f"| {row.title} | {row.norm:.2f} | {' | '.join(cells)} |")
    best = {row.title: float(row.own[:, 0].mean()) for row in rows}
    gap = best["LEGO"] - best[METHODS["svd"].display]
    verdict = "reaches" if gap >= 0 else "does not reach"
    lines += ["", f"LEGO {verdict} the SVD cut of the same rank ({gap:+.3f} in mean effect strength)."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three LoRAs, one rank, 40 pictures, one set of seeds")
    parser.add_argument("--pictures", type=int, default=80, help="pictures per set, at best a multiple of 40")
    parser.add_argument("--joint", type=Path, help="a LoRA trained on all three effects at once, for base A")
    parser.add_argument("--out", type=Path, help="write the tables to this file, too")
    options = parser.parse_args()
    studio = Studio(40 if options.quick else options.pictures, [1000] if options.quick else [1000, 2000])
    joint = None
    if options.joint:
        joint = {key: module.low_rank() for key, module in adapters.read(options.joint).modules.items()}
    effects, start, parts = materialize.EFFECTS, time.monotonic(), []
    sets = [effects] if options.quick else [effects, *itertools.combinations(effects, 2)]
    for names in sets:
        for rank in sorted({materialize.RANK, len(names) * materialize.RANK // 2})[: 1 if options.quick else 2]:
            rows = compare(names, rank, studio, joint if names == effects else None)
            parts.append(table(f"{' + '.join(names)}, rank {rank} of {len(names) * materialize.RANK}", rows))
            print(parts[-1] + "\n", flush=True)
    parts.append(f"{len(studio.prompts)} pictures per figure and set of seeds, {len(studio.seeds)} set(s), 10 Euler "
                 f"steps at cfg 3; {time.monotonic() - start:.0f} s."
                 + ("" if joint else " The family has no LoRA trained on several effects at once."))
    print(parts[-1])
    if options.out:
        options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
