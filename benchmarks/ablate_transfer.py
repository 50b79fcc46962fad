"""What each setting of a transfer does, on pictures: ``python benchmarks/ablate_transfer.py [TABLE …]``.

The example family draws the same prompts from the same seeds with every result, and its judge looks, as in quality.py:
recovered lift (0 no effect, 1 what training on the target gives) and class accuracy (digit and colour both right),
means over the three effects. Besides B (fine-tuned), C (pruned and healed) and S (a stranger) there are two more,
trained on the first call and kept under ``--out``: *deeper*, A with one of its three blocks twice, and *mixed*, A with
one block taken from S, both healed. On *mixed* no LoRA was trained: its lift counts the effect of A's LoRA on A
as 1. The family's text acts through a fixed vector, so that no LoRA of it changes a text encoder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lora_graft import adapters
from lora_graft.adapters import Adapter
from lora_graft.bases import open_base
from lora_graft.choices import Transfer
from lora_graft.errors import SettingsError
from lora_graft.family import judge, materialize, text
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.family.sample import patched, sample
from lora_graft.family.training.relatives import Relative
from lora_graft.jobs.cache import SubspaceCache
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.strength import match_strength
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.spectral import SubspaceSize
from torch import Tensor

TITLES = {"b": "B", "c": "C", "s": "S", "mixed": "mixed", "deeper": "deeper"}
THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
STRENGTHS = (0.5, 0.7, 0.85, 1.0)
RANKS = (1, 2, 4, 8)
MODULES = {
    "all": ("",),
    "attention": (".attn.",),
    "feed-forward": (".mlp.",),
    "attention and feed-forward": (".attn.", ".mlp."),
    "modulation": (".adaLN_",),
}
Cell = tuple[float, float]


@dataclass
class Target:
    """A base to transfer to.

    loras: of the effects, trained on it; with ``unit`` they are those of that base, and tell there what 1 is.
    seen: what the judge said before.
    """

    name: str
    weights: dict[str, Tensor]
    checkpoint: Path
    loras: dict[str, Path]
    pictures: int
    unit: Target | None = None
    seen: dict[bytes, tuple[Tensor, float]] = field(default_factory=dict)

    def judged(self, adapter: Adapter | None, strength: float = 1.0) -> tuple[Tensor, float]:
        """Strength of each effect, and the share of right classes; the same adapter is drawn once."""
        key = b"" if adapter is None else _identity(adapter, strength)
        if key not in self.seen:
            index = torch.arange(self.pictures)
            digits, colours = index % 10, index // 10 % 4
            prompts = [text.prompt(int(d), int(c)) for d, c in zip(digits, colours, strict=True)]
            images = sample(
                self.weights,
                materialize.autoencoder(),
                prompts,
                range(1000, 1000 + self.pictures),
                adapters=[(adapter, strength)] if adapter else [],
            )
            verdict = judge.look(materialize.judge_weights(), images)
            right = (verdict.digits.argmax(1) == digits) & (verdict.colours.argmax(1) == colours)
            self.seen[key] = verdict.effects.mean(0), right.float().mean().item()
        return self.seen[key]

    def score(self, adapter: Adapter | None, effect: str, strength: float = 1.0) -> Cell:
        """Recovered lift and class accuracy."""
        number = materialize.EFFECTS.index(effect)
        zero, one = (
            self.judged(None)[0][number],
            (self.unit or self).judged(adapters.read(self.loras[effect]))[0][number],
        )
        found, right = self.judged(adapter, strength)
        return ((found[number] - zero) / (one - zero)).item(), right


def _identity(adapter: Adapter, strength: float) -> bytes:
    state = sorted(adapters.to_state_dict(adapter).items())
    return b"".join([str(strength).encode(), *(k.encode() + t.float().numpy().tobytes() for k, t in state)])


def target(name: str, models: dict[str, Path], out: Path, pictures: int) -> Target:
    """A base of the family by letter, or one of the relatives, which is trained if it is not there yet."""
    if name == "mixed":
        unit, relative = target("a", models, out, pictures), Relative(name, out)
        return Target(name, relative.weights(), relative.checkpoint, unit.loras, pictures, unit)
    if name == "deeper":
        relative = Relative(name, out)
        loras = {effect: relative.lora(effect) for effect in materialize.EFFECTS}
        return Target(name, relative.weights(), relative.checkpoint, loras, pictures)
    loras = {effect: models[f"family_{effect}_{name}"] for effect in materialize.EFFECTS}
    return Target(name, materialize.base(name), models[f"family_{name}"], loras, pictures)


class Bench:
    """The LoRAs of A, moved to targets with any settings, and the table of what they do there."""

    def __init__(self, models: dict[str, Path], out: Path, pictures: int, cache: SubspaceCache, bases: list[str]):
        self.models, self.out, self.pictures, self.cache, self.bases = models, out, pictures, cache, bases
        self.source = open_base(models["family_a"])
        self.targets: dict[str, Target] = {}

    def target(self, name: str) -> Target:
        """The target, opened or trained once."""
        if name not in self.targets:
            self.targets[name] = target(name, self.models, self.out, self.pictures)
        return self.targets[name]

    def lora(self, effect: str, kind: str = "") -> Adapter:
        """The effect's ordinary LoRA of A, or with "lorax_" its LoRA-X adapter."""
        return adapters.read(self.models[f"family_{effect}_{kind}a"])

    def moved(self, name: str, effect: str, kind: str = "", pick: Callable[[str], bool] | None = None, **settings):
        """(adapter, report) on a target; (None, None) when the threshold leaves nothing."""
        adapter = self.lora(effect, kind)
        if pick is not None:
            slices = {key: self.source.names.resolve(key) for key in adapter.modules}
            kept = {k: m for k, m in adapter.modules.items() if (s := slices[k]) is not None and pick(s.name)}
            adapter = adapter.with_modules(kept)
        there = open_base(self.target(name).checkpoint)
        try:
            result = transfer(adapter, self.source, there, TransferSettings(**settings), cache=self.cache)
        except SettingsError:
            return None, None
        return result.adapter, result.report

    def cell(self, name: str, **asked) -> str:
        """Lift and class accuracy, means over the effects, and how many modules were left out."""
        cells, left = [], []
        for effect in materialize.EFFECTS:
            adapter, report = self.moved(name, effect, **asked)
            cells.append(self.target(name).score(adapter, effect))
            left.append(15 if report is None else report.totals["left_out"])
        lift, right = (sum(values) / len(values) for values in zip(*cells, strict=True))
        out = sum(left) / len(left)
        return f"{lift:.2f} / {right:.2f}" + (f" ({out:.0f})" if out else "")


def table(title: str, heads: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A Markdown table under a title; rows are made, and shown as they come."""
    heads = list(heads)
    lines = [f"### {title}", "", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, cells in rows:
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def thresholds(bench: Bench) -> str:
    """The layer filter: what the methods do from each threshold up, modules below left out or copied."""
    ways = {
        "copy, left out": {"method": "copy", "below_threshold": "leave-out"},
        "LoRA-X adapter, left out": {"kind": "lorax_", "method": "lora-x"},
        "LoRA-X adapter, copied": {"kind": "lorax_", "method": "lora-x", "below_threshold": "copy"},
    }
    rows = (
        (f"{TITLES[name]}: {way}", [bench.cell(name, threshold=level, **how) for level in THRESHOLDS])
        for name in bench.bases
        for way, how in ways.items()
    )
    title = "Threshold (lift / class accuracy, in brackets modules left out of 15)"
    return table(title, [f"{level:g}" for level in THRESHOLDS], rows)


def shares(bench: Bench) -> str:
    """Size of the subspaces, k as a share of the smaller side."""
    ways = {
        "LoRA, lora-x": ("", "lora-x"),
        "LoRA, rotate": ("", "rotate"),
        "LoRA-X adapter, lora-x": ("lorax_", "lora-x"),
    }
    rows = (
        (
            f"{TITLES[name]}: {way}",
            [bench.cell(name, kind=kind, method=method, size=SubspaceSize(share=share)) for share in SHARES],
        )
        for name in bench.bases
        for way, (kind, method) in ways.items()
    )
    return table("k share (lift / class accuracy)", [f"{share:g}" for share in SHARES], rows)


def modules(bench: Bench) -> str:
    """Which modules take part in a copy."""
    rows = (
        (
            title,
            [bench.cell(name, method="copy", pick=lambda n, m=marks: any(mark in n for mark in m)) for name in "bc"],
        )
        for title, marks in MODULES.items()
    )
    return table("Modules of a copied LoRA (lift / class accuracy)", ["B", "C"], rows)


def ranks(bench: Bench) -> str:
    """Rank of the copy, cut by SVD."""
    rows = ((TITLES[name], [bench.cell(name, method="copy", rank=rank) for rank in RANKS]) for name in "bc")
    return table("Rank of a copied LoRA of rank 8 (lift / class accuracy)", [str(rank) for rank in RANKS], rows)


class OnTarget(FamilyDenoiser):
    """A target of this benchmark as a Denoiser."""

    def __init__(self, there: Target, adapters: list[tuple[Adapter, float]]):
        super().__init__("a", {"family_a": there.checkpoint})
        self.label, self.weights = f"family_{there.name}", there.weights
        for adapter, strength in adapters:
            self.weights = patched(self.weights, adapter, strength)


def matching(bench: Bench) -> str:
    """The strength that Match Strength finds on the deeper target, without and with a filled block."""
    there, drawing = bench.target("deeper"), Drawing(64, 64, 10, 3.0, scheduler="simple", batch=16)
    lines = [text.prompt(i * 3 % 10, i % 4) for i in range(16)]

    def cells(fill: str) -> list[str]:
        found = []
        for effect in materialize.EFFECTS:
            adapter = bench.moved("deeper", effect, method="copy", fill=fill)[0]
            plain = FamilyDenoiser("a", bench.models)
            teacher = Teacher(plain, [FamilyDenoiser("a", bench.models, [(bench.lora(effect), 1.0)])])
            dataset = generate(teacher, OnTarget(there, []), lines, Generation(16, 0, drawing))
            on = lambda strength, a=adapter: OnTarget(there, [(a, strength)])  # noqa: E731
            strength = match_strength(teacher, OnTarget(there, []), on, dataset, batch=16)
            lift, right = there.score(adapter, effect, strength.value)
            found.append((strength.value, lift, right))
        return [f"{sum(values) / len(values):.2f}" for values in zip(*found, strict=True)]

    rows = ((f"fill {fill}", cells(fill)) for fill in Transfer.fills)
    return table("A → deeper, copy at the matched strength", ["strength", "lift", "class accuracy"], rows)


def depth(bench: Bench) -> str:
    """A deeper target whose additional block gets nothing, or the update of the most similar block."""
    there = bench.target("deeper")

    def cells(fill: str) -> list[str]:
        moved = {e: bench.moved("deeper", e, method="copy", fill=fill)[0] for e in materialize.EFFECTS}
        scores = [[there.score(moved[e], e, strength) for e in materialize.EFFECTS] for strength in STRENGTHS]
        means = [[sum(values) / len(values) for values in zip(*row, strict=True)] for row in scores]
        return [f"{lift:.2f} / {right:.2f}" for lift, right in means]

    rows = ((f"fill {fill}", cells(fill)) for fill in Transfer.fills)
    title = "A → deeper, copy by strength (lift / class accuracy)"
    return table(title, [f"{strength:g}" for strength in STRENGTHS], rows)


TABLES = {"depth": depth, "matching": matching, "threshold": thresholds, "k": shares, "modules": modules, "rank": ranks}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tables", nargs="*", default=list(TABLES), metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--pictures", type=int, default=40, help="pictures per figure, at best a multiple of 40")
    parser.add_argument("--bases", nargs="+", default=["b", "c", "s", "mixed"], help="for the thresholds and k shares")
    parser.add_argument("--out", type=Path, default=Path("out/relatives"), help="where trained relatives are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = materialize.materialize(folder, text_encoder=False)
        bench = Bench(models, options.out, options.pictures, SubspaceCache(Path(folder) / "cache"), options.bases)
        for name in options.tables:
            print(TABLES[name](bench) + "\n", flush=True)


if __name__ == "__main__":
    main()
