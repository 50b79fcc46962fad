"""What survives a transfer, measured on pictures: ``python benchmarks/quality.py [--quick] [--out FILE.md]``.

The example family draws the same prompts from the same seeds with every result; its judge says how strong the effect
is. Recovered lift = (result − target alone) / (LoRA trained on the target − target alone): 0 is no effect, 1 is what
training on the target gives. Class accuracy counts pictures whose digit and colour are both right. The Fréchet
distance is between the judge's features of the drawn pictures and of real ones with the effect in the target's look;
with so few pictures it is biased upwards, so compare it within a table only. All figures are means over the three
effects; ± is half the difference between two sets of sampling seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.bases import open_base
from lora_graft.family import judge, materialize, text
from lora_graft.family.sample import sample
from lora_graft.jobs.cache import SubspaceCache
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from torch import Tensor

PAIRS = {
    "b": "A → B, fine-tuned to another look",
    "c": "A → C, a third of the blocks pruned, healed",
    "s": "A → S, trained from another seed",
}
LOOK = {"b": "dusk", "c": "night", "s": "night"}
KERNELS = ("copy", "lora-x", "prolora", "rotate")


@dataclass(frozen=True)
class Measure:
    """One set of pictures, judged: effect strengths (3,), share of right classes, Fréchet distance per effect (3,)."""

    strength: Tensor
    right: float
    distance: Tensor


def random_like(adapter: Adapter, seed: int = 0) -> Adapter:
    """Every module replaced by a random update of the same shape, rank and Frobenius norm."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for key, module in adapter.modules.items():
        update = module.low_rank()
        up = torch.randn(update.up.shape, generator=generator)
        down = torch.randn(update.down.shape, generator=generator)
        up *= update.dense().norm() / (up @ down).norm()
        tensors |= {
            f"{key}.lora_up.weight": up,
            f"{key}.lora_down.weight": down,
            f"{key}.alpha": torch.tensor(float(update.rank)),
        }
    return adapters.from_state_dict(tensors)


def measure(name: str, results: list[tuple[Adapter, float]], seed: int, pictures: int) -> Measure:
    """Draw every digit in every colour, ``pictures`` in all, with base ``name`` and judge them."""
    index = torch.arange(pictures)
    digits, colours = index % 10, index // 10 % 4
    prompts = [text.prompt(int(d), int(c)) for d, c in zip(digits, colours, strict=True)]
    images = sample(
        materialize.base(name), materialize.autoencoder(), prompts, range(seed, seed + pictures), adapters=results
    )
    weights = materialize.judge_weights()
    verdict = judge.look(weights, images)
    right = (verdict.digits.argmax(1) == digits) & (verdict.colours.argmax(1) == colours)
    drawn = judge.gaussian(verdict.features)
    distance = [
        judge.frechet(drawn, tuple(weights[f"real.{LOOK[name]}.{effect}.{part}"] for part in ("mean", "covariance")))
        for effect in materialize.EFFECTS
    ]
    return Measure(verdict.effects.mean(0), right.float().mean().item(), torch.tensor(distance))


def candidates(effect: str, name: str, models: dict[str, Path], cache: SubspaceCache) -> dict[str, list]:
    """Every way to take an effect's LoRA to base ``name``: adapters with strengths, by the row's title."""
    source, target = open_base(models["family_a"]), open_base(models[f"family_{name}"])
    original = adapters.read(models[f"family_{effect}_a"])
    in_subspace = adapters.read(models[f"family_{effect}_lorax_a"])

    def moved(adapter: Adapter, method: str) -> Adapter:
        return transfer(adapter, source, target, TransferSettings(method=method), cache=cache).adapter

    copied = moved(original, "copy")
    ways = {"none": [], "random, same norm": [(random_like(copied), 1.0)], "negated copy": [(copied, -1.0)]}
    ways |= {method: [(copied if method == "copy" else moved(original, method), 1.0)] for method in KERNELS}
    ways |= {f"LoRA-X adapter, {method}": [(moved(in_subspace, method), 1.0)] for method in ("copy", "lora-x")}
    ways["trained on the target"] = [(adapters.read(models[f"family_{effect}_{name}"]), 1.0)]
    return ways


def compare(name: str, models: dict[str, Path], seeds: list[int], pictures: int, cache: SubspaceCache) -> dict:
    """Lift, class accuracy and Fréchet distance, each (seeds, effects), by the row's title."""
    figures: dict[str, list[list[tuple[float, float, float]]]] = {}
    alone = [measure(name, [], seed, pictures) for seed in seeds]
    for i, effect in enumerate(materialize.EFFECTS):
        ways = candidates(effect, name, models, cache)
        drawn = {
            title: [measure(name, adapter, seed, pictures) if adapter else alone[n] for n, seed in enumerate(seeds)]
            for title, adapter in ways.items()
        }
        for title, measures in drawn.items():
            row = figures.setdefault(title, [[] for _ in seeds])
            for n, result in enumerate(measures):
                zero, one = alone[n].strength[i], drawn["trained on the target"][n].strength[i]
                lift = (result.strength[i] - zero) / (one - zero)
                row[n].append((lift.item(), result.right, result.distance[i].item()))
        print(f"{PAIRS[name]}: {effect} done", file=sys.stderr, flush=True)
    return {title: torch.tensor(row) for title, row in figures.items()}


def cell(values: Tensor, form: str) -> str:
    """Mean over effects and seeds ± half the seeds' range, of values (seeds, effects)."""
    by_seed = values.mean(1)
    spread = (by_seed.max() - by_seed.min()) / 2
    return f"{values.mean():{form}}" + (f" ± {spread:{form}}" if len(by_seed) > 1 else "")


def table(name: str, figures: dict[str, Tensor]) -> str:
    """One pair of bases as Markdown."""
    effects = " | ".join(materialize.EFFECTS)
    lines = [
        f"### {PAIRS[name]}",
        "",
        f"| method | recovered lift | {effects} | class accuracy | Fréchet distance |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, values in figures.items():
        each = " | ".join(f"{lift:.2f}" for lift in values[:, :, 0].mean(0))
        lines.append(
            f"| {title} | {cell(values[:, :, 0], '.2f')} | {each} | {cell(values[:, :, 1], '.2f')} "
            f"| {cell(values[:, :, 2], '.1f')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="A → B only, 40 pictures, one set of seeds")
    parser.add_argument("--pictures", type=int, default=80, help="pictures per set, at best a multiple of 40")
    parser.add_argument("--out", type=Path, help="write the tables to this file, too")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the matrices are small")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures = 40 if options.quick else options.pictures
    seeds = [1000] if options.quick else [1000, 2000]
    start, parts = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        models = materialize.materialize(folder, text_encoder=False)
        cache = SubspaceCache(Path(folder) / "cache")
        for name in ("b",) if options.quick else PAIRS:
            parts.append(table(name, compare(name, models, seeds, pictures, cache)))
            print(parts[-1] + "\n", flush=True)
    end = (
        f"{pictures} pictures per figure and seed set, {len(seeds)} set(s), "
        f"10 Euler steps at cfg 3; {time.monotonic() - start:.0f} s."
    )
    print(end)
    if options.out:
        options.out.write_text("\n\n".join([*parts, end]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
