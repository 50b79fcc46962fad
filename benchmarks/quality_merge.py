"""What survives a merge, measured on pictures: ``python benchmarks/quality_merge.py [--quick] [--out FILE.md]``.

The example family's LoRAs on base A, merged three and two at a time by every method through ``jobs.merge``, are judged
on the pictures they draw. Mean strength is the mean over the merged effects of (result − base) / (that LoRA alone −
base): 1 is every effect at full strength. Class accuracy counts pictures whose digit and colour are both right. The
Fréchet distance is to real pictures with all the merged effects; compare it within a table only. Each result is judged
as the method left it and scaled to the norm of the exact sum. The LoRA trained jointly on all effects is trained here,
in about a minute. ± is half the difference between two sets of sampling seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from pathlib import Path

import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.family import judge, materialize, text
from lora_graft.family.demo import PROMPTS, contact_sheet
from lora_graft.family.sample import sample
from lora_graft.family.training import data
from lora_graft.family.training.learn import Pool
from lora_graft.family.training.train import kohya_file, train_lora
from lora_graft.jobs.merge.merge import MergeResult, MergeSettings, merge
from lora_graft.kernels import lowrank
from lora_graft.kernels.merge import METHODS
from lora_graft.plots import canvas
from torch import Tensor

EFFECTS = materialize.EFFECTS
UNCUT = ("concat", "linear")


def draw(result: Adapter | None, strength: float, prompts: list[str], seed: int) -> Tensor:
    """Pictures of base A with the adapter, (n, 3, 64, 64) in [0, 1]."""
    return sample(
        materialize.base("a"),
        materialize.autoencoder(),
        prompts,
        range(seed, seed + len(prompts)),
        adapters=[(result, strength)] if result else [],
    )


def real(chosen: tuple[str, ...], count: int = 2048) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the judge's features on real pictures with all the chosen effects."""
    batch = data.render(count, effects=data.only(chosen, count), generator=torch.Generator().manual_seed(6))
    return judge.gaussian(judge.look(materialize.judge_weights(), batch.images).features)


def jointly_trained() -> Adapter:
    """One LoRA of rank 8 trained on pictures with all three effects, as long as each of the family's LoRAs."""
    pool = Pool(materialize.autoencoder(), 4096, 99, effect=EFFECTS)
    return adapters.from_state_dict(kohya_file(train_lora("joint_a", materialize.base("a"), pool, seed=4000), "a"))


def run(loras: dict[str, Adapter], method: str, rank: int | str, **settings) -> MergeResult:
    chosen = MergeSettings(method=method, rank=rank, **settings)
    return merge([(lora, 1.0, 1.0) for lora in loras.values()], chosen)


def merged(loras: dict[str, Adapter], method: str, rank: int | str, **settings) -> Adapter:
    return run(loras, method, rank, **settings).adapter


def norm(adapter: Adapter) -> float:
    """‖ΔW‖ over all modules."""
    return math.sqrt(sum(lowrank.norm(module.low_rank()) ** 2 for module in adapter.modules.values()))


class Table:
    """Rows for one set of LoRAs (by effect)."""

    def __init__(self, loras: dict[str, Adapter], seeds: list[int], pictures: int):
        self.seeds, self.effects = seeds, [EFFECTS.index(effect) for effect in loras]
        index = torch.arange(pictures)
        self.digits, self.colours = index % 10, index // 10 % 4
        self.prompts = [text.prompt(int(d), int(c)) for d, c in zip(self.digits, self.colours, strict=True)]
        self.real = real(tuple(loras))
        self.base = {seed: self.look(None, 1.0, seed).effects.mean(0)[self.effects] for seed in seeds}
        self.alone = {
            seed: torch.stack(
                [self.look(lora, 1.0, seed).effects.mean(0)[EFFECTS.index(effect)] for effect, lora in loras.items()]
            )
            for seed in seeds
        }
        heads = [
            "method",
            "rank",
            "norm / sum",
            "mean strength",
            *loras,
            "class accuracy",
            "Fréchet",
            "strength at the sum's norm",
            "accuracy",
            "Fréchet",
        ]
        self.lines = [f"### {' + '.join(loras)}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]

    def look(self, result: Adapter | None, strength: float, seed: int) -> judge.Verdict:
        return judge.look(materialize.judge_weights(), draw(result, strength, self.prompts, seed))

    def judged(self, result: Adapter, strength: float) -> tuple[Tensor, list[float], list[float]]:
        """:meth:`figures` of an adapter at a strength."""
        return self.figures([self.look(result, strength, seed) for seed in self.seeds])

    def figures(self, verdicts: list[judge.Verdict]) -> tuple[Tensor, list[float], list[float]]:
        """Effect strengths (seeds, effects), accuracy and Fréchet distance by seed."""
        strengths, right, distance = [], [], []
        for seed, seen in zip(self.seeds, verdicts, strict=True):
            base = self.base[seed]
            strengths.append((seen.effects.mean(0)[self.effects] - base) / (self.alone[seed] - base))
            both = (seen.digits.argmax(1) == self.digits) & (seen.colours.argmax(1) == self.colours)
            right.append(both.float().mean().item())
            distance.append(judge.frechet(judge.gaussian(seen.features), self.real))
        return torch.stack(strengths), right, distance

    def add(self, title: str, rank: int, result: Adapter, whole: float, *, scaled: bool = True) -> None:
        ratio = norm(result) / whole
        own, right, distance = self.judged(result, 1.0)
        cells = [
            title,
            str(rank),
            f"{ratio:.2f}",
            spread(own.mean(1), ".2f"),
            *(f"{value:.2f}" for value in own.mean(0)),
            spread(right, ".2f"),
            spread(distance, ".0f"),
        ]
        if scaled:
            again, right, distance = self.judged(result, 1 / ratio)
            cells += [spread(again.mean(1), ".2f"), spread(right, ".2f"), spread(distance, ".0f")]
        else:
            cells += ["–"] * 3
        self.lines.append("| " + " | ".join(cells) + " |")
        print(self.lines[-1], flush=True)


def spread(values, form: str) -> str:
    """Mean ± half the range."""
    values = torch.as_tensor(values)
    half = (values.max() - values.min()) / 2
    return f"{values.mean():{form}}" + (f" ± {half:{form}}" if len(values) > 1 else "")


def table(loras: dict[str, Adapter], seeds: list[int], pictures: int, joint: Adapter | None = None) -> str:
    """One set of LoRAs as Markdown."""
    rows, total = Table(loras, seeds, pictures), 8 * len(loras)
    stack = merged(loras, "concat", "sum")
    whole = norm(stack)
    rows.add("exact sum (stack of loaders)", total, stack, whole, scaled=False)
    if joint is not None:
        rows.add("trained jointly", 8, joint, whole, scaled=False)
    rows.add("linear (average)", total, merged(loras, "linear", "sum"), whole)
    for rank in sorted({8, total // 2}):
        for units in ("canonical", "balanced", "paper"):
            rows.add(f"lego, {units}", rank, merged(loras, "lego", rank, units=units), whole)
        for method in METHODS:
            if method not in (*UNCUT, "lego"):
                rows.add(method, rank, merged(loras, method, rank), whole)
    return "\n".join(rows.lines)


def picture(loras: dict[str, Adapter], path: Path) -> None:
    """Stack, LEGO, SVD and TIES of three LoRAs side by side."""
    rows = [("base A", None), ("stack of three,\nrank 24", merged(loras, "concat", "sum"))]
    rows += [
        (f"{title},\nrank 12", merged(loras, method, 12))
        for title, method in (("LEGO", "lego"), ("SVD cut", "svd"), ("TIES", "ties"))
    ]
    canvas.save(contact_sheet([(title, draw(result, 1.0, PROMPTS, 0)) for title, result in rows]), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two LoRAs only, 40 pictures, one set of seeds")
    parser.add_argument("--pictures", type=int, default=80, help="pictures per set, at best a multiple of 40")
    parser.add_argument("--out", type=Path, help="write the tables to this file, too")
    parser.add_argument("--picture", type=Path, help="only draw stack, LEGO, SVD and TIES into this PNG")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the matrices are small")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures, seeds = (40, [1000]) if options.quick else (options.pictures, [1000, 2000])
    start, parts = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        models = materialize.materialize(folder, text_encoder=False)
        loras = {effect: adapters.read(models[f"family_{effect}_a"]) for effect in EFFECTS}
        if options.picture:
            picture(loras, options.picture)
            return
        if not options.quick:
            parts.append(table(loras, seeds, pictures, jointly_trained()))
        for pair in itertools.combinations(EFFECTS, 2):
            parts.append(table({effect: loras[effect] for effect in pair}, seeds, pictures))
            if options.quick:
                break
    parts.append(f"{pictures} pictures per figure and seed set, {len(seeds)} set(s); {time.monotonic() - start:.0f} s.")
    print(parts[-1])
    if options.out:
        options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
