"""What a discriminator is worth: ``python benchmarks/quality_discriminator.py [--only simulation|family]``.

``simulation``: embeddings of 768 independent numbers, an effect of so many standard deviations in each; what is
accepted of samples whose own pair (the same picture without the effect) was a negative, of fresh samples, and of fresh
pictures without the effect.

``family``: A → S from pictures (objective samples). Of the teacher's 32 samples a quarter is of prompts that do not set
the LoRA off (drawn without it) and a quarter of failures on which something else acts (another LoRA of the family).
Accepted: shares of the good samples, of those without effect and of the failures that pass. Discriminators see the
VAE's latents. Real pictures are the training data's renderer's, with the effect, of digits that no model was trained
on; the travelling discriminator has 20 of them against 64 pictures of base A of other seeds and prompts and is read
from its file; the other two have 5 and are fitted against the samples' own pairs on the spot.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from lora_graft.family import materialize, text, vae
from lora_graft.jobs.distill.dataset import Dataset
from lora_graft.jobs.distill.discriminator import Encoder, load, save, train_discriminator
from lora_graft.jobs.distill.generate import Generation
from lora_graft.kernels.distill.discriminator import likeness, train
from lora_graft.kernels.distill.filter import action
from lora_graft.kernels.distill.looks import cells
from quality_distill import DRAWING, Bench
from torch import Tensor

WIDTH, SEEDS = 768, 10
FEW, MANY, NEGATIVES = 5, 20, 64


def before(references: Tensor, others: Tensor, samples: Tensor) -> Tensor:
    """The form before cross-fitting: one fit against the samples' own pairs, the fit's own bias as the threshold."""
    both = torch.cat([references, others]).double()
    mean, scale, root = both.mean(0), both.std(0).clamp(min=1e-6), both.shape[1] ** 0.5
    x = (both - mean) / scale / root
    truth = torch.cat([torch.ones(len(references)), torch.zeros(len(others))]).double()
    weight = torch.where(truth > 0, 0.5 / len(references), 0.5 / len(others))
    w = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ w[1:] + w[0], truth, weight=weight, reduction="sum")
        value = value + 1e-2 * w[1:].square().sum() / 2
        value.backward()
        return value

    solver.step(loss)
    return (((samples.double() - mean) / scale / root) @ w[1:] + w[0]).detach().sigmoid()


def share(found: Tensor) -> float:
    return (found >= 0.5).double().mean().item()


def simulated(seed: int, shift: float, real: int, count: int = 32, prompts: int = 0) -> list[float]:
    """Accepted of paired, fresh and plain: before; cross-fitted paired and its pairs; travelling fresh, plain."""
    dice = torch.Generator().manual_seed(seed)
    way = torch.randn(WIDTH, generator=dice)
    way *= shift * WIDTH**0.5 / way.norm()
    content = torch.randn(max(prompts, 1), WIDTH, generator=dice) * (prompts > 0)

    def pictures(number: int) -> Tensor:
        return torch.randn(number, WIDTH, generator=dice) + content[torch.arange(number) % len(content)]

    def elsewhere(number: int) -> Tensor:
        return torch.randn(number, WIDTH, generator=dice) * (2**0.5 if prompts else 1)

    known, plain = elsewhere(real) + way, pictures(count)
    fresh, nothing, groups = pictures(200) + way, pictures(200), torch.arange(count) % len(content)
    taught = plain + way
    old = [share(before(known, plain, x)) for x in (taught, fresh, nothing)]
    kept = [share(likeness(known, plain, x, groups if prompts else None)) for x in (taught, plain)]
    found, seen = train(known, elsewhere(count))
    return [*old, *kept, *(share(found.probability(x)) for x in (taught, nothing)), seen.accuracy]


def simulation() -> str:
    head = ["old: paired", "old: fresh", "cross-fitted: paired", "its pairs", "travelling: samples", "plain", "told"]
    lines = ["### Simulated embeddings", "", "| shift | real | prompts | " + " | ".join(head) + " |", "|---" * 10 + "|"]
    cases = [(shift, FEW, prompts) for prompts in (0, 8) for shift in (0.15, 0.3, 0.5)]
    cases += [(0.3, real, 0) for real in (1, 2, 3, 10, 40)]
    for shift, real, prompts in cases:
        found = torch.tensor([simulated(seed, shift, real, 64 if prompts else 32, prompts) for seed in range(SEEDS)])
        mean = found.double().mean(0).tolist()
        del mean[2]
        cells_ = " | ".join("–" if value != value else f"{value:.2f}" for value in mean)
        lines.append(f"| {shift:g} | {real} | {prompts or 'all differ'} | {cells_} |")
    return "\n".join(lines)


class Discriminating:
    """Base A, an effect's LoRA, real pictures of it, and a teacher that sometimes fails."""

    def __init__(self, bench: Bench, effect: str, seed: int):
        from lora_graft.family.training import data

        self.bench, self.effect, self.seed = bench, effect, seed
        self.clean = bench.dataset([effect], "s", seed)
        other = materialize.EFFECTS[(materialize.EFFECTS.index(effect) + 1) % len(materialize.EFFECTS)]
        wrong = bench.denoiser("a", [(bench.loras[other], 1.0)])
        seeds = [100_000 + seed + i for i in range(len(self.clean.prompts))]
        failed = wrong.draw(self.clean.prompts, seeds, DRAWING, lambda *_: None)
        self.kind = torch.arange(len(seeds)) % 4  # 0: no effect, 2: failed, 1 and 3: good
        which = self.kind.view(-1, 1, 1, 1)
        taught = torch.where(which == 0, self.clean.plain, self.clean.taught)
        self.dataset = replace(self.clean, taught=torch.where(which == 2, failed, taught))
        dice = torch.Generator().manual_seed(seed)
        pictures = data.render(MANY, effects=data.only(effect, MANY), index=data.split(True), generator=dice).images
        self.real = self.embed(vae.encode(materialize.autoencoder(), pictures))

    def embed(self, latents: Tensor) -> Tensor:
        """As the node does: what a VAE makes of the decoded picture."""
        weights = materialize.autoencoder()
        return cells(vae.encode(weights, vae.decode(weights, latents)))

    def ways(self) -> dict[str, tuple[Dataset, Tensor]]:
        """Name → (dataset, which samples are kept)."""
        mixed = self.dataset
        acts = action(mixed.taught, mixed.plain) >= Generation().least_action
        plain, taught = self.embed(mixed.plain), self.embed(mixed.taught)
        few = self.real[:FEW]
        order = {line: i for i, line in enumerate(dict.fromkeys(mixed.prompts))}
        groups = torch.tensor([order[line] for line in mixed.prompts])
        every = torch.ones(len(acts), dtype=torch.bool)
        return {
            "all samples good": (self.clean, every),
            "no filter": (mixed, every),
            "action": (mixed, acts),
            "action, old discriminator": (mixed, acts & (before(few, plain, taught) >= 0.5)),
            "action, cross-fitted": (mixed, acts & (likeness(few, plain, taught, groups) >= 0.5)),
            "action, travelling": (mixed, acts & (self.travelling().likeness(taught) >= 0.5)),
        }

    def travelling(self):
        """Trained on pictures of other seeds and prompts, written and read again."""
        prompts = [f"{line}, small sign" for line in (text.prompt(i % 10, i // 10 % 4) for i in range(NEGATIVES))]
        seeds = range(900_000 + self.seed, 900_000 + self.seed + NEGATIVES)
        drawn = self.bench.denoiser("a").draw(prompts, list(seeds), DRAWING, lambda *_: None)
        negatives = self.embed(drawn)
        found = train_discriminator(self.real, negatives, Encoder("latents", negatives.shape[1]))
        with tempfile.TemporaryDirectory() as folder:
            return load(save(found, Path(folder) / "discriminator.safetensors"))


def family(effects: list[str], seeds: list[int], pictures: int, steps: int, models: dict[str, Path]) -> str:
    bench, figures = Bench(models, pictures, effects), {}
    for seed in seeds:
        for effect in effects:
            case, learnt = Discriminating(bench, effect, seed), {}
            for name, (data, kept) in case.ways().items():
                parts = (case.kind % 2 == 1, case.kind == 0, case.kind == 2)
                passed = [kept[part].double().mean().item() for part in parts]
                if data is case.clean:
                    passed = [float("nan")] * 3
                key = (data is case.clean, *kept.tolist())  # the same samples teach the same
                if key not in learnt:
                    learnt[key] = result(bench, effect, seed, steps, replace(data, kept=kept))
                figures.setdefault(name, []).append((*passed, *learnt[key]))
                print(f"{effect} {seed} {name}: {figures[name][-1]}", file=sys.stderr, flush=True)
            print(table(figures, steps), file=sys.stderr, flush=True)
    return table(figures, steps)


def result(bench: Bench, effect: str, seed: int, steps: int, data: Dataset) -> tuple[float, float]:
    """(lift, class accuracy) of what is learnt from a dataset; nan where nothing was kept."""
    if not data.kept.any():
        return float("nan"), float("nan")
    adapter, _, _ = bench.taught([effect], "s", seed, steps=steps, dataset=data, objective="samples")
    score = bench.score("s", [(adapter, 1.0)], seed, effect)
    return score["lift"], score["class accuracy"]


def table(figures: dict[str, list[tuple]], steps: int) -> str:
    lines = [
        f"### A teacher that sometimes fails, A → S from pictures, {steps} steps",
        "",
        "| filter | good kept | no effect kept | failed kept | lift | class accuracy | nothing left |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in figures.items():
        found = torch.tensor(rows).double()
        cells_ = " | ".join("–" if value != value else f"{value:.2f}" for value in found.nanmean(0).tolist())
        lines.append(f"| {name} | {cells_} | {int(found[:, 3].isnan().sum())} of {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=("simulation", "family"), default=("simulation", "family"))
    parser.add_argument("--effects", nargs="+", choices=materialize.EFFECTS, default=list(materialize.EFFECTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000])
    parser.add_argument("--pictures", type=int, default=40, help="judged for each figure")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if "simulation" in options.only:
        print(simulation() + "\n", flush=True)
    if "family" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            models = materialize.materialize(folder, text_encoder=False)
            print(family(options.effects, options.seeds, options.pictures, options.steps, models), flush=True)


if __name__ == "__main__":
    main()
