"""LoRAs and a step-distilled base: ``python benchmarks/quality_turbo.py [--out FILE.jsonl]``.

Base T is the example family's A taught to draw in 4 steps without guidance what A draws in 20 with it: at each of its
four noise levels its step lands where A's guided steps lead (progressive distillation in one round, arXiv 2202.00512,
with classifier-free guidance folded in, arXiv 2210.03142). It is trained here, in minutes.

A → T and T → A: a plain copy, a copy at other strengths and at the strength that Match Strength finds, and distilling
from the copy and from nothing. T draws with 4 steps at cfg 1, A with 10 at cfg 3, each as teacher and as student where
it is at home, unless a row says otherwise. LoRAs of T are those that A → T, distilled from the copy, gave. Lift: of
the effect over the LoRA's own on A; class accuracy in pictures with the effect. Means over the three styles.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from ledger import Ledger
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.bases import open_base
from lora_graft.family import judge, materialize, model, sample, text, vae
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.io import safetensors
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.distill.strength import match_strength
from torch import Tensor

Tensors = dict[str, Tensor]
STEPS, FINER = 4, 5  # of T, and of A within each of them
HOME = {"a": (10, 3.0), "t": (STEPS, 1.0)}
EFFECTS = materialize.EFFECTS


def prompts(count: int, seed: int) -> list[str]:
    dice = torch.Generator().manual_seed(seed)
    draws = [torch.randint(n, (count,), generator=dice).tolist() for n in (10, 4)]
    return [text.prompt(*pair) for pair in zip(*draws, strict=True)]


@torch.no_grad()
def paths(count: int, seed: int, batch: int = 128) -> tuple[Tensor, Tensor]:
    """A's guided latents (count, STEPS + 1, 16, 8, 8) at T's levels, and the prompts' vectors (count, 768)."""
    weights, levels = materialize.base("a"), sample.schedule(STEPS)
    lines, found = prompts(count, seed), []
    pooled = text.encode(lines)
    for start in range(0, count, batch):
        part = pooled[start : start + batch]
        both = torch.cat([part, torch.zeros_like(part)])
        x = sample.noise(range(10**6 + seed * count + start, 10**6 + seed * count + start + len(part)))
        seen = [x]
        for level, following in zip(levels, levels[1:], strict=False):
            finer = torch.linspace(float(level), float(following), FINER + 1)
            for now, then in zip(finer, finer[1:], strict=False):
                towards, away = model.forward(weights, torch.cat([x, x]), (now * 1000).expand(len(both)), both).chunk(2)
                x = x + (then - now) * (away + HOME["a"][1] * (towards - away))
            seen.append(x)
        found.append(torch.stack(seen, 1))
    return torch.cat(found), pooled


def train_turbo(steps: int, count: int, batch: int = 64) -> Tensors:
    """A's weights after learning to take A's guided way in STEPS steps."""
    states, pooled = paths(count, 0)
    levels, generator = sample.schedule(STEPS), torch.Generator().manual_seed(0)
    weights = dict(materialize.base("a"))
    learnt = [
        n for n, w in weights.items() if w.ndim == 2 and n.startswith(("joint_blocks", "final", "t_emb", "y_emb"))
    ]
    weights |= {n: weights[n].clone().requires_grad_() for n in learnt}
    optimizer = torch.optim.AdamW([weights[n] for n in learnt], lr=2e-4, weight_decay=0.0)
    for step in range(steps):
        which = torch.randint(len(states), (batch,), generator=generator)
        at = torch.randint(STEPS, (batch,), generator=generator)
        x, target = states[which, at], states[which, at + 1]
        width = (levels[at + 1] - levels[at]).view(-1, 1, 1, 1)
        velocity = model.forward(weights, x, levels[at] * 1000, pooled[which])
        loss = F.mse_loss(velocity * width, target - x)
        for group in optimizer.param_groups:
            group["lr"] = 2e-4 * min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"T, step {step}: {loss.item():.4f}", flush=True)
    return {name: weight.detach().half().float() for name, weight in weights.items()}


class Turbo:
    def __init__(self, models: dict[str, Path], weights: Tensors, file: Path, pictures: int):
        self.models, self.pictures, self.file = models, pictures, file
        self.weights = {"a": materialize.base("a"), "t": weights}
        self.loras = {effect: adapters.read(models[f"family_{effect}_a"]) for effect in EFFECTS}
        self.of_turbo: dict[str, Adapter] = {}
        self.alone = {name: self.judged(name, [])[0] for name in "at"}
        own = [self.judged("a", [(lora, 1.0)])[0][i] for i, lora in enumerate(self.loras.values())]
        self.reach = torch.stack(own) - self.alone["a"]

    def denoiser(self, name: str, given=()) -> FamilyDenoiser:
        made = FamilyDenoiser("a", self.models)
        made.label = f"family_{name}"
        made.weights = self.weights[name]
        for adapter, strength in given:
            made.weights = sample.patched(made.weights, adapter, strength)
        if name == "t":
            made.base = open_base(self.file)
        return made

    def judged(self, name: str, given: list, home: str | None = None) -> tuple[Tensor, float]:
        """(effect strengths (3,), share of right classes) of pictures drawn as base ``home`` draws."""
        index, (steps, cfg) = torch.arange(self.pictures), HOME[home or name]
        digits, colours = index % 10, index // 10 % 4
        lines = [text.prompt(int(d), int(c)) for d, c in zip(digits, colours, strict=True)]
        weights = self.weights[name]
        for adapter, strength in given:
            weights = sample.patched(weights, adapter, strength)
        drawn = sample.latents(weights, lines, range(1000, 1000 + self.pictures), steps=steps, cfg=cfg)
        verdict = judge.look(materialize.judge_weights(), vae.decode(materialize.autoencoder(), drawn))
        right = (verdict.digits.argmax(1) == digits) & (verdict.colours.argmax(1) == colours)
        return verdict.effects.mean(0), right.float().mean().item()

    def row(self, target: str, made: Callable[[str], tuple[Adapter, float, dict]]) -> dict:
        figures: list[dict] = []
        for at, effect in enumerate(EFFECTS):
            adapter, strength, more = made(effect)
            seen, right = self.judged(target, [(adapter, strength)])
            lift = float((seen[at] - self.alone[target][at]) / self.reach[at])
            figures.append({"lift": lift, "accuracy": right, "strength": strength} | more)
        return {name: [f[name] for f in figures] for name in figures[0]}

    def lora(self, source: str, effect: str) -> Adapter:
        return self.loras[effect] if source == "a" else self.of_turbo[effect]

    def teacher(self, source: str, effect: str) -> Teacher:
        return Teacher(self.denoiser(source), [self.denoiser(source, [(self.lora(source, effect), 1.0)])])

    def data(self, source: str, target: str, effect: str, home: str, count: int):
        drawing = Drawing(64, 64, *HOME[home], scheduler="simple", batch=32)
        settings = Generation(count, 100_000, drawing)
        return generate(self.teacher(source, effect), self.denoiser(target), prompts(count, 7), settings)

    def copied(self, source: str, strength: float, effect: str) -> tuple[Adapter, float, dict]:
        return self.lora(source, effect), strength, {}

    def matched(self, source: str, target: str, effect: str) -> tuple[Adapter, float, dict]:
        lora = self.lora(source, effect)
        found = match_strength(
            self.teacher(source, effect),
            self.denoiser(target),
            lambda g: self.denoiser(target, [(lora, g)]),
            self.data(source, target, effect, source, 64),
            batch=32,
            seed=0,
        )
        return lora, found.value, {"residual": found.residual, "evaluations": found.evaluations}

    def taught(self, source: str, target: str, home: str, start: bool, effect: str) -> tuple[Adapter, float, dict]:
        count, latents, steps, batch = (16, 128, 20, 16) if start else (64, 1024, 100, 32)
        how = Distillation(rank=8, noisy_latents=latents, training=Training(steps=steps, batch=batch, accumulation=1))
        lora = self.lora(source, effect)
        data = self.data(source, target, effect, home, count)
        warm = lora if start else None
        result = distill(data, self.teacher(source, effect), self.denoiser(target), [lora], how, warm_start=warm)
        spent = sum(result.report.evaluations.values())
        if (source, start, home) == ("a", True, "a"):
            self.of_turbo[effect] = result.adapter
        return result.adapter, 1.0, {"share": result.report.explained, "evaluations": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/turbo.jsonl"))
    parser.add_argument("--quick", action="store_true", help="40 pictures, T after a third of its steps")
    asked = parser.parse_args()
    ledger = Ledger(asked.out)
    with tempfile.TemporaryDirectory() as folder:
        models = materialize.materialize(folder, text_encoder=False)
        file = asked.out.with_suffix(".safetensors")
        if not file.exists():
            weights = train_turbo(*((500, 512) if asked.quick else (1500, 1536)))
            safetensors.save(file, {materialize.PREFIX + name: weight.half() for name, weight in weights.items()})
        stored = safetensors.load(file)[0]
        weights = {name.removeprefix(materialize.PREFIX): weight.float() for name, weight in stored.items()}
        turbo = Turbo(models, weights, file, 40 if asked.quick else 80)
        away = [float((weights[n] - w).norm() / w.norm()) for n, w in turbo.weights["a"].items() if "attn.qkv.w" in n]
        print(f"T lies {fmean(away):.1%} from A. Class accuracy:", end=" ")
        for name, home in (("a", "a"), ("a", "t"), ("t", "t"), ("t", "a")):
            print(f"{name.upper()} as {home.upper()} draws {turbo.judged(name, [], home)[1]:.2f};", end=" ")
        print(flush=True)
        ways = {f"A → T: copy × {g}": ("t", partial(turbo.copied, "a", g)) for g in (0.5, 0.75, 1.0, 1.25, 1.5)} | {
            "A → T: matched strength": ("t", partial(turbo.matched, "a", "t")),
            "A → T: copy, then 20 steps": ("t", partial(turbo.taught, "a", "t", "a", True)),
            "A → T: copy, then 20 steps, drawn with 4 steps at cfg 1": (
                "t",
                partial(turbo.taught, "a", "t", "t", True),
            ),
            "A → T: 100 steps from nothing": ("t", partial(turbo.taught, "a", "t", "a", False)),
            "T → A: copy": ("a", partial(turbo.copied, "t", 1.0)),
            "T → A: matched strength": ("a", partial(turbo.matched, "t", "a")),
            "T → A: copy, then 20 steps": ("a", partial(turbo.taught, "t", "a", "t", True)),
            "T → A: copy, then 20 steps, drawn with 10 steps at cfg 3": (
                "a",
                partial(turbo.taught, "t", "a", "a", True),
            ),
            "T → A: 100 steps from nothing": ("a", partial(turbo.taught, "t", "a", "t", False)),
        }
        for effect in EFFECTS:  # also where the ledger has the row
            turbo.taught("a", "t", "a", True, effect)
        for name, (target, made) in ways.items():
            ledger.measured(name, partial(turbo.row, target, made))
    print("\n| way | lift | class accuracy | strength | residual | share | evaluations |\n" + "|---" * 7 + "|")
    for name in ways:
        row = ledger.found[name]
        cells = [f"{fmean(row['lift']):.2f} (" + ", ".join(f"{v:.2f}" for v in row["lift"]) + ")"]
        cells += [f"{fmean(row[n]):.2f}" if n in row else "–" for n in ("accuracy", "strength", "residual", "share")]
        cells += [f"{fmean(row['evaluations']):,.0f}" if "evaluations" in row else "–"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
