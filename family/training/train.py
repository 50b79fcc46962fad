"""Train the example family from scratch, on a CPU: ``python -m lora_graft.family.training.train all --out OUT``.

Every stage is a function with its own seed; a stage whose checkpoint is already there is skipped, so that an
interrupted run goes on where it stopped. ``pack`` writes the compact files that the repository carries.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...io import safetensors
from .. import judge, materialize, model, store, vae
from . import data
from .concept import ConceptPool, train_head
from .conditional import ConditionalPool
from .learn import Log, Pool, any_picture, fit, random_effects, rate

Weights = dict[str, Tensor]
# Effects that are no styles: what they are learnt from, and its seed.
_SPECIAL = {materialize.CONCEPT: (ConceptPool, 30), materialize.CONDITIONAL: (ConditionalPool, 40)}

AUTOENCODERS = {"autoencoder": {}, "autoencoder_v": {"steps": 2200, "seed": 11, "spread": 0.7}}
SCRATCH = {"a": (192, 2, 3400), "s": (192, 3, 3400), "w": (128, 4, 5000), "v": (192, 5, 3400)}  # width, seed, steps


def train_vae(stage: str, steps: int = 3200, seed: int = 1, spread: float = 1.0) -> Weights:
    """An autoencoder: reconstruct every look and effect, latents near a spread and inside the decoder's clamp."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: w.requires_grad_() for name, w in vae.initial(generator).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=3e-3, weight_decay=0.0)
    log = Log(stage, steps)
    for step in range(steps):
        whole = step >= steps * 0.85
        images = any_picture(16 if whole else 32, generator).images
        if not whole:  # quarters: four times as many pictures for the time
            corner = torch.randint(0, 5, (2,), generator=generator) * 8
            images = images[:, :, corner[0] : corner[0] + 32, corner[1] : corner[1] + 32]
        images = images.contiguous(memory_format=torch.channels_last)
        latents = vae.encode(weights, images)
        noise = torch.rand(len(latents), 1, 1, 1, generator=generator) * 0.2
        restored = vae.decode_raw(weights, latents + noise * torch.randn(latents.shape, generator=generator))
        mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        tidy = mean.square().mean() + (deviation - spread).square().mean() + F.relu(latents.abs() - 2.5).square().mean()
        loss = 2 * F.mse_loss(restored, images) + 0.5 * F.l1_loss(restored, images) + 0.02 * tidy
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, 3e-3)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        log(step, loss)
    return {name: w.detach() for name, w in weights.items()}


def train_base(name: str, pool: Pool, first: Weights, *, steps: int, peak: float, seed: int) -> Weights:
    """A base model's trained part, going on from ``first``."""
    rest = model.frozen_part(materialize.FROZEN_SEEDS[name], model.width_of(first))
    if name == "c":
        rest = model.prune(rest, materialize.PRUNED_BLOCK)
    return fit(f"base {name}", first, lambda p: {**rest, **p}, pool, steps=steps, peak=peak, batch=64, seed=seed)


def train_lora(
    stage: str, weights: Weights, pool: Pool, *, steps: int = 500, seed: int, rank: int = materialize.RANK
) -> Weights:
    """A LoRA on every linear of the image blocks; kohya's names. ``weights`` may have any depth."""
    random = torch.Generator().manual_seed(seed)
    factors = {}
    for name in model.lora_targets(model.depth_of(weights)):
        rows, columns = weights[f"{name}.weight"].shape
        factors[f"{name}.up"] = torch.zeros(rows, rank)
        factors[f"{name}.down"] = torch.randn(rank, columns, generator=random) / columns**0.5

    def patched(p: Weights) -> Weights:
        names = [name.removesuffix(".up") for name in p if name.endswith(".up")]
        return {**weights, **{f"{n}.weight": weights[f"{n}.weight"] + p[f"{n}.up"] @ p[f"{n}.down"] for n in names}}

    return fit(stage, factors, patched, pool, steps=steps, peak=4e-3, batch=48, seed=seed, average=0.99)


def train_lorax(stage: str, weights: Weights, pool: Pool, *, steps: int = 500, seed: int) -> Weights:
    """A LoRA-X adapter: ΔW = U ΔΣ Vᵀ in the top quarter of each weight's singular directions; only ΔΣ is trained."""
    names, k = model.lora_targets(), materialize.LORAX_RANK
    frames = {n: materialize.subspace_factors(weights[f"{n}.weight"], torch.eye(k)) for n in names}

    def patched(p: Weights) -> Weights:
        return {
            **weights,
            **{f"{n}.weight": weights[f"{n}.weight"] + frames[n][0] @ p[n] @ frames[n][1] for n in names},
        }

    cores = {n: torch.zeros(k, k) for n in names}
    return fit(stage, cores, patched, pool, steps=steps, peak=8e-3, batch=48, seed=seed, average=0.99)


def train_judge(steps: int = 2500, seed: int = 9) -> Weights:
    """The judge: digit, colour and amount of every effect in pictures of both looks, blurred and noisy at times."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: w.requires_grad_() for name, w in judge.initial(generator).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=2e-3, weight_decay=1e-3)
    log = Log("judge", steps)
    for step in range(steps):
        batch = any_picture(64, generator)
        soft = F.avg_pool2d(batch.images, 3, 1, 1, count_include_pad=False)
        mix = torch.rand(64, 1, 1, 1, generator=generator)
        noise = torch.rand(64, 1, 1, 1, generator=generator) * 0.06
        images = batch.images + mix * (soft - batch.images)
        images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        digits, colours, effects, _ = judge.logits(weights, images)
        loss = F.cross_entropy(digits, batch.digits, label_smoothing=0.02)
        loss = loss + F.cross_entropy(colours, batch.colours) + 10 * F.mse_loss(effects.sigmoid(), batch.effects)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, 2e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(step, loss)
    return {name: w.detach() for name, w in weights.items()}


def judge_report(weights: Weights) -> dict[str, float]:
    """How good the judge is on digits it never saw."""
    generator = torch.Generator().manual_seed(77)
    batch = data.render(
        2000, effects=random_effects(2000, generator), index=data.split(held_out=True), generator=generator
    )
    verdict = judge.look(weights, batch.images)
    digit, colour = judge.accuracy(verdict, batch.digits, batch.colours)
    return {"digit": digit, "colour": colour, "effect error": (verdict.effects - batch.effects).abs().mean().item()}


class Family:
    """The stages in order, each kept under ``out`` once it is done."""

    def __init__(self, out: Path):
        self.out, self.pools = out, {}
        out.mkdir(parents=True, exist_ok=True)

    def keep(self, name: str, make) -> Weights:
        path = self.out / f"{name}.safetensors"
        if not path.exists():
            safetensors.save(path, make())
        return safetensors.load(path)[0]

    def autoencoder(self, stage: str = "autoencoder") -> Weights:
        """An autoencoder's trained part, before rounding."""
        return self.keep(stage, lambda: train_vae(stage, **AUTOENCODERS[stage]))

    def judge(self) -> Weights:
        return self.keep("judge", train_judge)

    def pool(self, base_name: str, effect: str | None = None) -> Pool:
        """What a base, or an adapter on it, learns from."""
        look, space = "dusk" if base_name == "b" else "night", materialize.space(base_name)
        seed = 10 * data.LOOKS.index(look) + (data.EFFECTS.index(effect) + 1 if effect else 0)
        count = 16384 if effect is None else 8192
        if (look, space, effect) not in self.pools:
            autoencoder = store.rounded(self.autoencoder(materialize.AUTOENCODERS[space]))
            self.pools = {(look, space, effect): Pool(autoencoder, count, seed, look=look, effect=effect)}
        return self.pools[look, space, effect]

    def trained(self, name: str) -> Weights:
        """A base's trained part as it is stored, before rounding."""

        def make() -> Weights:
            if name in SCRATCH:
                width, seed, steps = SCRATCH[name]
                first = model.initial(torch.Generator().manual_seed(seed), width)
                return train_base(name, self.pool(name), first, steps=steps, peak=2e-3, seed=ord(name))
            first = store.rounded(self.trained("a"))
            if name == "b":
                return train_base(name, self.pool(name), first, steps=900, peak=6e-4, seed=ord(name))
            first = model.prune(first, materialize.PRUNED_BLOCK)
            return train_base(name, self.pool(name), first, steps=1200, peak=1e-3, seed=ord(name))

        return self.keep(f"base_{name}", make)

    def base(self, name: str) -> Weights:
        """The whole denoiser with its stored values; C with its two blocks."""
        return materialize.complete(store.rounded(self.trained(name)), name, compact=True)

    def lora(self, effect: str, name: str) -> Weights:
        stage, seed = f"{effect}_{name}", 1000 + 10 * ord(name) + data.EFFECTS.index(effect)
        return self.keep(stage, lambda: train_lora(stage, self.base(name), self.pool(name, effect), seed=seed))

    def lorax(self, effect: str) -> Weights:
        stage, seed = f"{effect}_lorax_a", 2000 + data.EFFECTS.index(effect)
        return self.keep(stage, lambda: train_lorax(stage, self.base("a"), self.pool("a", effect), seed=seed))

    def special(self, effect: str, name: str) -> Weights:
        """The LoRA of the new class or of the conditional effect, on a base in the look of night and the common latent
        space."""
        kind, base_seed = _SPECIAL[effect]
        stage, seed = f"{effect}_{name}", 100 * base_seed + ord(name)

        def make() -> Weights:
            pool = kind(store.rounded(self.autoencoder()), 8192, seed=base_seed)
            return train_lora(stage, self.base(name), pool, seed=seed, rank=materialize.CONCEPT_RANK)

        return self.keep(stage, make)

    def pack(self, folder: Path) -> None:
        """Write the compact files that the repository carries."""
        for stage in AUTOENCODERS:
            store.save(self.autoencoder(stage), folder / f"{stage}.safetensors")
        for name in materialize.BASES:
            store.save(self.trained(name), folder / f"base_{name}.safetensors")
        for effect in data.EFFECTS:
            for name in materialize.BASES:
                lora = kohya_file(self.lora(effect, name), name)
                safetensors.save(folder / f"{effect}_{name}.safetensors", lora, overwrite=True)
            cores = {key: core.half() for key, core in self.lorax(effect).items()}
            safetensors.save(folder / f"{effect}_lorax_a.safetensors", cores, overwrite=True)
        few = {materialize.CONCEPT: materialize.CONCEPT_BASES, materialize.CONDITIONAL: materialize.CONDITIONAL_BASES}
        for effect, name in ((effect, name) for effect, names in few.items() for name in names):
            lora = kohya_file(self.special(effect, name), name)
            safetensors.save(folder / f"{effect}_{name}.safetensors", lora, overwrite=True)
        judged = self.judge()
        kept = {**{n: w.half() for n, w in judged.items()}, **real_features(judged)}
        safetensors.save(folder / "judge.safetensors", kept, overwrite=True)
        head = train_head({n: w.half().float() for n, w in judged.items()})
        safetensors.save(folder / f"judge_{materialize.CONCEPT}.safetensors", head, overwrite=True)


def kohya_file(factors: Weights, base_name: str) -> Weights:
    """Factors ``….up`` and ``….down`` as a file in kohya's layout, fp16; C's blocks numbered as in the full layout."""
    tensors = {}
    for name in factors:
        if not name.endswith(".up"):
            continue
        stem = name.removesuffix(".up")
        parts = stem.split(".")
        if base_name == "c" and int(parts[1]) >= materialize.PRUNED_BLOCK:
            parts[1] = str(int(parts[1]) + 1)
        key = materialize.kohya(".".join(parts))
        tensors[f"{key}.lora_up.weight"] = factors[name].half()
        tensors[f"{key}.lora_down.weight"] = factors[f"{stem}.down"].half()
        tensors[f"{key}.alpha"] = torch.tensor(float(factors[name].shape[1]), dtype=torch.float16)
    return tensors


def real_features(weights: Weights, count: int = 2048) -> Weights:
    """Mean and covariance of the judge's features on drawn pictures of each look, plain and with each effect."""
    rounded, tensors = {name: w.half().float() for name, w in weights.items()}, {}
    generator = torch.Generator().manual_seed(5)
    for look in data.LOOKS:
        for effect in (None, *data.EFFECTS):
            batch = data.render(count, look=look, effects=data.only(effect, count), generator=generator)
            mean, covariance = judge.gaussian(judge.look(rounded, batch.images).features)
            tensors[f"real.{look}.{effect or 'plain'}.mean"] = mean.float()
            tensors[f"real.{look}.{effect or 'plain'}.covariance"] = covariance.float()
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "stage",
        nargs="+",
        help="all, pack, autoencoder, autoencoder_v, judge, base:a, frame:b, frame:x (LoRA-X), star:a, seven:a …",
    )
    parser.add_argument("--out", type=Path, default=Path("out/family"), help="folder of the checkpoints")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    family = Family(options.out)
    for stage in options.stage:
        what, _, which = stage.partition(":")
        if what in ("all", "pack"):
            family.pack(materialize.HERE)
        elif what in AUTOENCODERS:
            family.autoencoder(what)
        elif what == "base":
            family.trained(which)
        elif what in data.EFFECTS:
            family.lorax(what) if which == "x" else family.lora(what, which)
        elif what in _SPECIAL:
            family.special(what, which)
        elif what == "judge":
            print(judge_report(family.judge()))
        else:
            parser.error(f"no such stage: {stage}")


if __name__ == "__main__":
    main()
