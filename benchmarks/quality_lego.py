"""LoRA-LEGO's own questions, on pictures: ``python benchmarks/quality_lego.py [--only PART …] [--out FILE.md]``.

Parts: ``ranks`` (LoRAs of rank 4, 8 and 16 merged), ``prune`` (one LoRA at fewer ranks, LEGO beside the SVD cut),
``clusters`` (three LoRAs of rank 8 in 1 to 24 clusters), ``reweighting`` (the paper's two corrections on and off),
``ensemble`` (the LoRAs' outputs put together while sampling, beside their weights).

Figures are those of quality_merge.py: strength is (result − base) / (that LoRA alone − base), class accuracy counts
pictures whose digit and colour are both right, error and norm are those of ΔW against the exact sum. Each figure is a
mean of two: k-means with seed 0 drawn from one set of sampling seeds and with seed 1 from another; ± is half their
difference. LoRAs of rank 4 and 16 are trained here like the family's own, in about a minute each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.family import judge, materialize, model, sample, vae
from lora_graft.family.training.learn import Pool
from lora_graft.family.training.train import kohya_file, train_lora
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from quality_merge import EFFECTS, Table, run, spread
from torch import Tensor

SEEDS = (1000, 2000)
FORMS = ("canonical", "balanced", "paper")
RANKS = dict(zip(EFFECTS, (4, 8, 16), strict=True))

Loras = dict[str, Adapter]


class Rows:
    """A Markdown table of merges of one set of LoRAs."""

    def __init__(self, loras: Loras, columns: Sequence[str], pictures: int, *, frechet: bool = True):
        self.loras, self.ground, self.frechet = loras, Table(loras, list(SEEDS), pictures), frechet
        effects = list(loras) if len(loras) > 1 else []
        heads = [*columns, "error", "norm / sum", "mean strength", *effects, "class accuracy"]
        heads += ["Fréchet"] if frechet else []
        self.lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]

    def add(self, columns: Sequence[object], results: Sequence) -> None:
        """One merge per set of seeds."""
        totals = [result.report.totals for result in results]
        looks = [self.ground.look(result.adapter, 1.0, seed) for result, seed in zip(results, SEEDS, strict=True)]
        self.line(columns, looks, [t["error"] for t in totals], [t["norm_ratio"] for t in totals])

    def line(self, columns: Sequence[object], looks: list[judge.Verdict], error=None, norm=None) -> None:
        strength, right, distance = self.ground.figures(looks)
        cells = [str(column) for column in columns]
        cells += [spread(values, ".2f") if values else "–" for values in (error, norm)]
        cells.append(spread(strength.mean(1), ".2f"))
        if len(self.loras) > 1:
            cells += [f"{value:.2f}" for value in strength.mean(0)]
        cells.append(spread(right, ".2f"))
        cells += [spread(distance, ".0f")] if self.frechet else []
        self.lines.append("| " + " | ".join(cells) + " |")
        print(self.lines[-1], flush=True)

    def merge(self, columns: Sequence[object], method: str, rank: int | str, **settings) -> None:
        """A method with k-means seeds 0 and 1."""
        self.add(columns, [run(self.loras, method, rank, seed=seed, **settings) for seed in range(len(SEEDS))])


def trained(effect: str, rank: int) -> Adapter:
    """A LoRA of base A like the family's own, at another rank."""
    pool = Pool(materialize.autoencoder(), 8192, EFFECTS.index(effect) + 1, effect=effect)
    seed = 5000 + 100 * rank + EFFECTS.index(effect)
    factors = train_lora(f"{effect}, rank {rank}", materialize.base("a"), pool, seed=seed, rank=rank)
    return adapters.from_state_dict(kohya_file(factors, "a"))


def ranks(loras: Loras, pictures: int) -> str:
    """LoRAs of rank 4, 8 and 16: which survives, and does LEGO favour the larger?"""
    mixed = {e: loras[e] if rank == materialize.RANK else trained(e, rank) for e, rank in RANKS.items()}
    rows, total = Rows(mixed, ("method", "rank"), pictures), sum(RANKS.values())
    rows.merge(("exact sum", total), "concat", "sum")
    for rank in (8, 16):
        for units in FORMS:
            rows.merge((f"lego, {units}", rank), "lego", rank, units=units)
        for method in ("svd", "ties"):
            rows.merge((method, rank), method, rank)
    titles = ", ".join(f"{e} of rank {rank}" for e, rank in RANKS.items())
    return f"### Mixed ranks\n\n{titles}, each trained for 500 steps.\n\n" + "\n".join(rows.lines)


def prune(loras: Loras, pictures: int) -> str:
    """One LoRA at rank k = r … 1: relative error, lift and class accuracy, means over the three effects."""
    forms = ("canonical", "paper")
    heads = ("SVD cut", *(f"LEGO, {units}" for units in forms))
    lines = [
        "### Pruning one LoRA of rank 8",
        "Relative error, lift, class accuracy; means over frame, slant and stripes, each alone. `lora-graft resize` is "
        "the SVD cut, `lora-graft resize --lego` the others.",
        f"| k | {' | '.join(heads)} |\n" + "|---" * (len(heads) + 1) + "|",
    ]
    grounds = {effect: Rows({effect: lora}, (), pictures).ground for effect, lora in loras.items()}
    for k in range(materialize.RANK, 0, -1):
        cells = []
        for units in (None, *forms) if k < materialize.RANK else (None,):
            errors, lifts, right = [], [], []
            for effect, ground in grounds.items():
                lora = loras[effect]
                results = [
                    run({effect: lora}, "lego", k, units=units, seed=seed)
                    if units
                    else resize(lora, ResizeSettings("rank", k))
                    for seed in range(len(SEEDS))
                ]
                looks = [ground.look(r.adapter, 1.0, seed) for r, seed in zip(results, SEEDS, strict=True)]
                strength, accuracy, _ = ground.figures(looks)
                errors.append(torch.tensor([r.report.totals["error"] for r in results]))
                lifts.append(strength.mean(1))
                right.append(torch.tensor(accuracy))
            cells.append(", ".join(spread(torch.stack(values).mean(0), ".2f") for values in (errors, lifts, right)))
        cells += ["the same"] * (len(heads) - len(cells))
        lines[-1] += f"\n| {k} | {' | '.join(cells)} |"
        print(f"| {k} | {' | '.join(cells)} |", flush=True)
    return "\n\n".join(lines)


def clusters(loras: Loras, pictures: int) -> str:
    """From one cluster to as many as there are units."""
    rows = Rows(loras, ("k", "method"), pictures)
    for k in (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24):
        for method, units in (("svd", "canonical"), *(("lego", units) for units in ("canonical", "paper"))):
            rows.merge((k, "svd" if method == "svd" else f"lego, {units}"), method, k, units=units)
    return "### Number of clusters\n\nThree LoRAs of rank 8.\n\n" + "\n".join(rows.lines)


def reweighting(loras: Loras, pictures: int) -> str:
    """Parameter and output reweighting on and off."""
    rows = Rows(loras, ("units", "k", "parameter", "output"), pictures)
    for units in ("paper", "balanced"):
        for k in (4, 8, 16):
            for parameter in (False, True):
                for output in (False, True):
                    on = ["on" if switch else "off" for switch in (parameter, output)]
                    switches = {"parameter_reweighting": parameter, "output_reweighting": output}
                    rows.merge((units, k, *on), "lego", k, units=units, **switches)
    return (
        "### Dual reweighting\n\nThree LoRAs of rank 8, one LoRA's rank r = 8; √(r/k) is 1.41 at k = 4, 1 at k = 8, "
        "0.71 at k = 16. Canonical units take no part: neither switch changes a byte of their result.\n\n"
        + "\n".join(rows.lines)
    )


@torch.no_grad()
def together(loras: Loras, ground: Table, seed: int, share: float) -> judge.Verdict:
    """Pictures of base A whose velocity at every step is that of the base + share · Σ (with LoRA i − base)."""
    base = materialize.base("a")
    with_loras = [sample.patched(base, lora) for lora in loras.values()]

    def forward(weights, x: Tensor, times: Tensor, pooled: Tensor) -> Tensor:
        plain = model.forward(weights, x, times, pooled)
        return plain + share * sum(model.forward(each, x, times, pooled) - plain for each in with_loras)

    drawn = [
        sample.latents(
            base, ground.prompts[i : i + 64], range(seed + i, seed + i + 64)[: len(ground.prompts) - i], forward=forward
        )
        for i in range(0, len(ground.prompts), 64)
    ]
    images = torch.cat([vae.decode(materialize.autoencoder(), latents) for latents in drawn])
    return judge.look(materialize.judge_weights(), images)


def ensemble(loras: Loras, pictures: int) -> str:
    """Outputs put together while sampling, beside weights put together before."""
    parts = [
        "### Ensemble of outputs",
        "Every step asks one network for each LoRA, and for the sum of effects the base as well.",
    ]
    for chosen in (EFFECTS, *((a, b) for i, a in enumerate(EFFECTS) for b in EFFECTS[i + 1 :])):
        some = {effect: loras[effect] for effect in chosen}
        rows = Rows(some, ("method", "rank", "networks per step"), pictures)
        for title, share, networks in (
            ("sum of effects", 1.0, len(some) + 1),
            ("average of outputs", 1 / len(some), len(some)),
        ):
            looks = [together(some, rows.ground, seed, share) for seed in SEEDS]
            rows.line((f"ensemble, {title}", "–", networks), looks)
        total = materialize.RANK * len(some)
        rows.merge(("weights, exact sum", total, 1), "concat", "sum")
        rows.merge(("weights, average", total, 1), "linear", "sum")
        for method in ("svd", "lego"):
            rows.merge((f"weights, {method}", total // 2, 1), method, total // 2)
        parts += [f"{' + '.join(chosen)}:", "\n".join(rows.lines)]
    return "\n\n".join(parts)


PARTS = {part.__name__: part for part in (clusters, reweighting, ensemble, ranks, prune)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--pictures", type=int, default=80, help="pictures per set of seeds, a multiple of 40")
    parser.add_argument("--out", type=Path, help="write the tables to this file, too")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the matrices are small")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start, parts = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        models = materialize.materialize(folder, text_encoder=False)
        loras = {effect: adapters.read(models[f"family_{effect}_a"]) for effect in EFFECTS}
        for name in options.only:
            parts.append(PARTS[name](loras, options.pictures))
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
            if options.out:
                options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
