"""What distillation recovers, measured on pictures: ``python benchmarks/quality_distill.py [--only PART …] [--quick]``.

Parts: ``pairs`` (base A's LoRAs taught to each other base of the family, beside what needs no training and what real
data give), ``merge`` (three LoRAs into one), ``kinds`` (student kinds), ``filter`` and ``prompts`` (ablations of
Trans-LoRA), ``lorax`` (an ordinary LoRA made a LoRA-X adapter on its own base, then moved by projection).

Figures are those of quality.py: recovered lift, class accuracy, Fréchet distance; ± is half the difference between two
sets of seeds (of drawing, learning and judging alike), means over the three effects. Own look: where the pictures' mean
features lie between real pictures of the source's look (0) and of the target's (1), each with the effect; only where
the two differ. Evaluations: forward passes of one sample (drawing the data, teacher, target, student); a LoRA trained
on real data here took 24,000.

The jobs run on the family's own small networks; with ``host.py`` before the script's name, on ComfyUI's models.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.bases import open_base
from lora_graft.family import judge, materialize, text
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.family.sample import sample
from lora_graft.jobs.distill.dataset import Dataset
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.prompts import PromptSettings, synthesize
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.distill.strength import match_strength
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.distill.filter import action
from quality import LOOK
from quality_merge import spread
from torch import Tensor

TITLES = {
    "b": "A → B, fine-tuned to another look",
    "c": "A → C, a third of the blocks pruned, healed",
    "s": "A → S, trained from another seed",
    "w": "A → W, another width and depth",
    "v": "A → V, another autoencoder",
}
REAL_STEPS, REAL_BATCH = 500, 48
DRAWING = Drawing(64, 64, 10, 3.0, scheduler="simple", batch=32)
PARTS = ("pairs", "merge", "kinds", "filter", "prompts", "lorax")
STEPS = (25, 50, 100)


class Bench:
    """The family's models, and every way to take an effect of A to another base."""

    def __init__(self, models: dict[str, Path], pictures: int, effects: Sequence[str], steps: Sequence[int] = STEPS):
        self.models, self.pictures, self.effects, self.steps = models, pictures, effects, steps
        self.loras = {e: adapters.read(models[f"family_{e}_a"]) for e in materialize.EFFECTS}
        self.data: dict[tuple, Dataset] = {}
        self.known: dict[tuple, tuple[Tensor, float, float, float]] = {}

    def denoiser(self, name: str, adapters: Sequence[tuple[Adapter, float]] = ()) -> FamilyDenoiser:
        return FamilyDenoiser(name, self.models, adapters)

    def teacher(self, names: Sequence[str], base: str = "a") -> Teacher:
        return Teacher(self.denoiser(base), [self.denoiser(base, [(self.loras[e], 1.0)]) for e in names])

    def dataset(self, names: Sequence[str], target: str, seed: int, prompts: Sequence[str] | None = None) -> Dataset:
        """64 samples; digits and colours at random unless prompts are given."""
        key = (*names, target, seed, tuple(prompts or ()))
        if key not in self.data:
            dice = torch.Generator().manual_seed(seed)
            draws = [torch.randint(n, (64,), generator=dice).tolist() for n in (10, 4)]
            lines = prompts or [text.prompt(*pair) for pair in zip(*draws, strict=True)]
            teacher = Teacher(self.denoiser("a"), [self.denoiser("a", [(self.loras[e], 1.0) for e in names])])
            settings = Generation(64, 100_000 + seed, DRAWING)
            self.data[key] = generate(teacher, self.denoiser(target), lines, settings)
        return self.data[key]

    def taught(
        self,
        names: Sequence[str],
        target: str,
        seed: int,
        *,
        steps: int,
        start: Adapter | None = None,
        dataset: Dataset | None = None,
        rank: int = 8,
        **settings,
    ) -> tuple[Adapter, int, float]:
        """(adapter, evaluations, share of the effect on held-out noisy latents)."""
        data = dataset or self.dataset(names, target, seed)
        student, teacher = self.denoiser(target), self.teacher(names)
        chosen = Distillation(
            rank=rank, training=Training(steps=steps, seed=seed, batch=32, accumulation=1), **settings
        )
        result = distill(
            data,
            teacher,
            student,
            [self.loras[e] for e in names],
            chosen,
            warm_start=start,
            translate=self.translation(target),
        )
        return result.adapter, sum(result.report.evaluations.values()), result.report.explained

    def translation(self, target: str):
        from lora_graft.family import vae

        theirs = materialize.autoencoder(target) if target == "v" else materialize.autoencoder()
        return lambda latents: vae.encode(theirs, vae.decode(materialize.autoencoder(), latents))

    def moved(self, effect: str, target: str, method: str = "copy") -> Adapter:
        return self.project(self.loras[effect], target, method)

    def project(self, adapter: Adapter, target: str, method: str) -> Adapter:
        source, base = open_base(self.models["family_a"]), open_base(self.models[f"family_{target}"])
        return transfer(adapter, source, base, TransferSettings(method=method)).adapter

    def matched(self, effect: str, target: str, adapter: Adapter, seed: int) -> tuple[float, float, int]:
        """(strength, residual, evaluations) of a moved adapter."""
        found = match_strength(
            self.teacher([effect]),
            self.denoiser(target),
            lambda g: self.denoiser(target, [(adapter, g)]),
            self.dataset([effect], target, seed),
            batch=32,
            seed=seed,
        )
        return found.value, found.residual, found.evaluations

    def judged(self, name: str, adapters: Sequence[tuple[Adapter, float]], seed: int, effect: str) -> tuple:
        """(effect strengths (3,), share of right classes, Fréchet distance, own look)."""
        index = torch.arange(self.pictures)
        digits, colours = index % 10, index // 10 % 4
        prompts = [text.prompt(int(d), int(c)) for d, c in zip(digits, colours, strict=True)]
        decoder = materialize.autoencoder(name) if name == "v" else materialize.autoencoder()
        images = sample(materialize.base(name), decoder, prompts, range(seed, seed + self.pictures), adapters=adapters)
        weights = materialize.judge_weights()
        verdict = judge.look(weights, images)
        right = (verdict.digits.argmax(1) == digits) & (verdict.colours.argmax(1) == colours)
        look = LOOK.get(name, "night")
        real = {
            which: [weights[f"real.{which}.{effect}.{part}"] for part in ("mean", "covariance")]
            for which in ("night", "dusk")
        }
        way = real["dusk"][0] - real["night"][0]
        look_share = float((verdict.features.mean(0) - real["night"][0]) @ way / way.square().sum())
        distance = judge.frechet(judge.gaussian(verdict.features), tuple(real[look]))
        return verdict.effects.mean(0), right.float().mean().item(), distance, look_share if look == "dusk" else None

    def score(self, name: str, results: Sequence[tuple[Adapter, float]], seed: int, effect: str) -> dict[str, float]:
        """Lift and the rest of one result."""
        at = materialize.EFFECTS.index(effect)
        key = (name, effect, seed)
        if key not in self.known:
            trained = adapters.read(self.models[f"family_{effect}_{name}"])
            self.known[key] = (
                self.judged(name, [], seed, effect)[0][at],
                self.judged(name, [(trained, 1.0)], seed, effect)[0][at],
            )
        zero, one = self.known[key]
        strengths, right, distance, look = self.judged(name, results, seed, effect)
        figures = {
            "lift": float((strengths[at] - zero) / (one - zero)),
            "class accuracy": right,
            "Fréchet": float(distance),
        }
        return figures | ({"own look": look} if look is not None else {})


COLUMNS = ("lift", "class accuracy", "Fréchet", "own look", "share of the effect", "evaluations")
FORMS = {
    "lift": ".2f",
    "class accuracy": ".2f",
    "Fréchet": ".0f",
    "own look": ".2f",
    "share of the effect": ".2f",
    "evaluations": ".0f",
}


class Rows:
    """A Markdown table filled result by result."""

    def __init__(self, title: str, columns: Sequence[str] = COLUMNS):
        self.title, self.columns, self.figures = title, columns, {}

    def add(self, row: str, seed: int, effect: str, figures: dict[str, float]) -> None:
        self.figures.setdefault(row, {}).setdefault(seed, []).append(figures)
        seen = ", ".join(f"{name} {value:{FORMS[name]}}" for name, value in figures.items())
        print(f"{self.title} | {row} | {effect} | seed {seed}: {seen}", file=sys.stderr, flush=True)

    def markdown(self) -> str:
        seen = {name for seeds in self.figures.values() for found in seeds.values() for f in found for name in f}
        columns = [name for name in self.columns if name in seen]
        lines = [f"### {self.title}", "", "| way | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for row, seeds in self.figures.items():
            cells = []
            for name in columns:
                values = [[f[name] for f in found if name in f] for found in seeds.values()]
                means = [sum(v) / len(v) for v in values if v]
                form = FORMS[name]
                cells.append(
                    "–" if not means else f"{means[0]:{form}}" if name == "evaluations" else spread(means, form)
                )
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def pairs(bench: Bench, seeds: Sequence[int], names: Sequence[str]) -> list[str]:
    """Every pair of bases: copy, copy at matched strength, distilled, trained on real data."""
    tables = []
    for name in names:
        rows = Rows(TITLES[name])
        related, shared = name in "bc", name != "v"
        for seed in seeds:
            for effect in bench.effects:

                def put(row, adapters, cost=0, seen=None, effect=effect, seed=seed, rows=rows, name=name):
                    extra = {"share of the effect": seen} if seen is not None else {}
                    rows.add(
                        row, seed, effect, bench.score(name, adapters, seed, effect) | extra | {"evaluations": cost}
                    )

                def teach(row, effect=effect, seed=seed, put=put, name=name, **how):
                    adapter, cost, seen = bench.taught([effect], name, seed, **how)
                    put(row, [(adapter, 1.0)], cost, seen)

                put("target alone", [])
                copied = None
                if name in "bcs":
                    copied = bench.moved(effect, name)
                    put("copy", [(copied, 1.0)])
                    strength, residual, cost = bench.matched(effect, name, copied, seed)
                    put("copy, matched strength", [(copied, strength)], cost, 1 - residual**2)
                if shared:
                    for steps in bench.steps:
                        teach(f"distilled from nothing, {steps} steps", steps=steps)
                if related:
                    for steps in bench.steps:
                        teach(f"distilled from the copy, {steps} steps", steps=steps, start=copied)
                if shared:
                    teach("distilled, output, 100 steps", steps=100, objective="output")
                teach("distilled, samples, 100 steps", steps=100, objective="samples")
                if not shared:
                    teach("distilled, samples, 300 steps", steps=300, objective="samples")
                put(
                    "trained on real data",
                    [(adapters.read(bench.models[f"family_{effect}_{name}"]), 1.0)],
                    REAL_STEPS * REAL_BATCH,
                )
        tables.append(rows.markdown())
        print(tables[-1] + "\n", flush=True)
    return tables


def kinds(bench: Bench, seeds: Sequence[int]) -> list[str]:
    """Student kinds on the stranger, 100 steps; ranks with about as many numbers as a LoRA of rank 8."""
    ranks = {"lora": 8, "lora-x": 48, "lora-x-diagonal": 192, "loha": 4, "lokr": 8, "dora": 8}
    rows = Rows("Kinds of students, A → S, 100 steps")
    for seed in seeds:
        for effect in bench.effects:
            for kind, rank in ranks.items():
                adapter, cost, seen = bench.taught([effect], "s", seed, steps=100, kind=kind, rank=rank)
                rows.add(
                    f"{kind}, rank {rank}",
                    seed,
                    effect,
                    bench.score("s", [(adapter, 1.0)], seed, effect)
                    | {"share of the effect": seen, "evaluations": cost},
                )
    return [rows.markdown()]


def filters(bench: Bench, seeds: Sequence[int]) -> list[str]:
    """Half of the teacher's samples drawn without the LoRA, as if their prompts had not set it off."""
    rows = Rows("Filter, A → S, 100 steps; half of the teacher's samples show no effect")
    for seed in seeds:
        for effect in bench.effects:
            clean = bench.dataset([effect], "s", seed)
            half = torch.arange(len(clean.prompts)) % 2 == 0
            taught = torch.where(half.view(-1, 1, 1, 1), clean.plain, clean.taught)
            without = replace(clean, taught=taught)
            with_filter = replace(without, kept=action(taught, clean.plain) >= Generation().least_action)
            for objective in ("difference", "samples"):
                for row, data in (
                    ("all samples good", clean),
                    ("with the filter", with_filter),
                    ("without the filter", without),
                ):
                    adapter, cost, seen = bench.taught(
                        [effect], "s", seed, steps=100, objective=objective, dataset=data
                    )
                    rows.add(
                        f"{objective}, {row}",
                        seed,
                        effect,
                        bench.score("s", [(adapter, 1.0)], seed, effect)
                        | {"share of the effect": seen, "evaluations": cost},
                    )
    return [rows.markdown()]


def prompt_sources(bench: Bench, seeds: Sequence[int]) -> list[str]:
    """Five seed prompts, the LoRA's training tags, or both, against prompts of the whole task."""
    rows = Rows("Prompts, A → S, 100 steps")
    five = ["white digit zero", "red digit two", "a green three", "number four in blue ink", "blue digit six"]
    for seed in seeds:
        for effect in bench.effects:
            lora = bench.loras[effect]
            sources = {
                "the whole task (10 digits, 4 colours)": None,
                "five seed prompts": five,
                "training tags": synthesize(PromptSettings(adapter=lora, count=32, seed=seed)).lines,
                "seed prompts and tags": synthesize(PromptSettings(five, lora, count=32, seed=seed)).lines,
            }
            for row, lines in sources.items():
                data = bench.dataset([effect], "s", seed, lines)
                adapter, cost, seen = bench.taught([effect], "s", seed, steps=100, dataset=data)
                rows.add(
                    row,
                    seed,
                    effect,
                    bench.score("s", [(adapter, 1.0)], seed, effect)
                    | {"share of the effect": seen, "evaluations": cost},
                )
    return [rows.markdown()]


def lorax(bench: Bench, seeds: Sequence[int]) -> list[str]:
    """An ordinary LoRA, taught to its own base as a LoRA-X adapter, then moved by projection without training."""
    tables = []
    for name in ("b", "c"):
        rows = Rows(f"{TITLES[name]}: by projection (lora-x, a quarter of the width)")
        for seed in seeds:
            for effect in bench.effects:

                def put(row, adapter, cost=0, effect=effect, seed=seed, rows=rows, name=name):
                    figures = bench.score(name, [(adapter, 1.0)], seed, effect)
                    rows.add(row, seed, effect, figures | {"evaluations": cost})

                put("ordinary LoRA, projected", bench.moved(effect, name, "lora-x"))
                for steps in (50, 100, 200):
                    own, cost, _ = bench.taught([effect], "a", seed, steps=steps, kind="lora-x", rank=48)
                    put(f"made LoRA-X in {steps} steps, projected", bench.project(own, name, "lora-x"), cost)
                native = adapters.read(bench.models[f"family_{effect}_lorax_a"])
                put("trained as LoRA-X on real data, projected", bench.project(native, name, "lora-x"))
                put("ordinary LoRA, copied", bench.moved(effect, name))
        tables.append(rows.markdown())
    return tables


def merge(bench: Bench, seeds: Sequence[int]) -> list[str]:
    """Three LoRAs of A in one, beside merges of weights (quality_merge.py)."""
    from quality_merge import Table, jointly_trained, merged, norm

    loras = {effect: bench.loras[effect] for effect in materialize.EFFECTS}
    rows = Table(loras, list(seeds), bench.pictures)
    stack = merged(loras, "concat", "sum")
    whole = norm(stack)
    rows.add("exact sum (stack of loaders)", 24, stack, whole, scaled=False)
    for rank in (8, 12):
        for method in ("svd", "lego", "ties"):
            rows.add(method, rank, merged(loras, method, rank), whole, scaled=False)
        for steps in (50, 100):
            for start, name in ((None, "nothing"), (merged(loras, "svd", rank), "the SVD cut")):
                adapter, cost, seen = bench.taught(list(loras), "a", seeds[0], steps=steps, rank=rank, start=start)
                rows.add(
                    f"effects distilled from {name}, {steps} steps ({cost} evaluations)",
                    rank,
                    adapter,
                    whole,
                    scaled=False,
                )
    rows.add("trained jointly on real data (24000 evaluations)", 8, jointly_trained(), whole, scaled=False)
    return ["\n".join(rows.lines)]


class HostBench(Bench):
    """The same with every prediction, picture of the data and step made by ComfyUI's own models in this process; only
    the judge's pictures are drawn without it (they are the same to 1e-4).
    """

    def __init__(self, *given):
        super().__init__(*given)
        import comfy.sd

        with torch.inference_mode():
            path = str(self.models["family_clip_l"])
            self.clip = comfy.sd.load_clip([path], clip_type=comfy.sd.CLIPType.SD3)
        self.bases: dict[str, object] = {}

    def denoiser(self, name: str, adapters: Sequence[tuple[Adapter, float]] = ()):
        import comfy.sd
        from lora_graft.nodes.distilling import with_loras
        from lora_graft.nodes.host.denoiser import HostDenoiser

        with torch.inference_mode():
            if name not in self.bases:
                self.bases[name] = comfy.sd.load_diffusion_model(str(self.models[f"family_{name}"]))
        model = self.bases[name]
        given = [(adapter, strength, strength) for adapter, strength in adapters]
        return with_loras(model, self.clip, None, given) if given else HostDenoiser(model, self.clip)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pairs", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--effects", nargs="+", choices=materialize.EFFECTS, default=materialize.EFFECTS)
    parser.add_argument("--quick", action="store_true", help="one set of seeds, 40 pictures")
    parser.add_argument("--pictures", type=int, default=80, help="pictures per set, at best a multiple of 40")
    parser.add_argument("--out", type=Path, help="write the tables to this file, too")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the matrices are small")
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS, help="steps of the part pairs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures, seeds = (40, [1000]) if options.quick else (options.pictures, [1000, 2000])
    start, parts = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        inside = "comfy" in sys.modules
        models = materialize.materialize(folder, text_encoder=inside)
        bench = (HostBench if inside else Bench)(models, pictures, options.effects, options.steps)
        made = {"merge": merge, "kinds": kinds, "filter": filters, "prompts": prompt_sources, "lorax": lorax}
        for part in options.only:
            found = pairs(bench, seeds, options.pairs) if part == "pairs" else made[part](bench, seeds)
            parts += found
            if part != "pairs":
                print("\n\n".join(found) + "\n", flush=True)
    end = (
        f"{pictures} pictures per figure and seed set, {len(seeds)} set(s), 10 Euler steps at cfg 3; "
        f"{time.monotonic() - start:.0f} s."
    )
    print(end)
    if options.out:
        options.out.write_text("\n\n".join([*parts, end]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
