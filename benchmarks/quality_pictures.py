"""Adapters trained from a few real pictures: ``python benchmarks/quality_pictures.py [--steps N …] [--quick]`` and,
beside core's TrainLoraNode, ``COMFYUI_PYTHON benchmarks/host.py COMFYUI_FOLDER quality_pictures.py``.

Without ComfyUI: ten and fifty real pictures of an effect (scikit-learn's digits in base A's look, with captions) are
learnt by base A with every kind of adapter; the result is judged on A, and copied to and projected (``lora-x``) on B
and C without training. Lift 1 is the LoRA trained on 8,192 pictures in 500 steps of 48, on the base that is judged;
class accuracy the share of pictures with the right digit and colour, out of all 40 pairs, of which ten pictures show a
few.

Within ComfyUI: the ten pictures that ``lora-graft examples`` writes, Distill Adapter's job against the ``execute`` of
TrainLoraNode at the same rank, steps and batch, drawn by the host. The loss of both is measured by one rule, on those
pictures at noise that neither learnt from; seconds are those of the processor, one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lora_graft import adapters as files
from lora_graft.adapters import Adapter
from lora_graft.bases import open_base
from lora_graft.family import judge, materialize, text, vae
from lora_graft.family.sample import sample
from lora_graft.jobs.distill.dataset import Dataset
from lora_graft.jobs.distill.denoiser import Drawing
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.noisy_latents import make_noisy_latents, predictions
from lora_graft.jobs.distill.picture_files import open_folder, read_picture
from lora_graft.jobs.distill.pictures import picture_dataset
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.distill.levels import squared_error

DRAWING = Drawing(64, 64, 10, 3.0)
KINDS = (
    ("lora", 8),
    ("lora-x", 48),  # a quarter of the width, the share that projection keeps
    ("lora-x-diagonal", 48),
    ("lora-x-diagonal", 192),
    ("loha", 4),
    ("lokr", 8),
    ("dora", 8),
)
MOVES = {"B": "b", "C": "c"}
CORE_RATES = (5e-4, 5e-3, 2e-2)  # TrainLoraNode's default, and higher ones for so few steps


class Eye:
    """The judge, and what it sees of each base alone (lift 0) and with the LoRA trained on real data (lift 1)."""

    def __init__(self, models: dict[str, Path], pictures: int):
        self.models, self.pictures, self.ends = models, pictures, {}
        index = torch.arange(pictures)
        self.digits, self.colours = index % 10, index // 10 % 4
        self.prompts = [text.prompt(int(d), int(c)) for d, c in zip(self.digits, self.colours, strict=True)]

    def drawn(self, base: str, adapter: Adapter | None, seed: int) -> torch.Tensor:
        on = [] if adapter is None else [(adapter, 1.0)]
        seeds = range(seed, seed + self.pictures)
        return sample(materialize.base(base), materialize.autoencoder(base), self.prompts, seeds, adapters=on)

    def look(self, images: torch.Tensor, effect: str) -> tuple[float, float, float]:
        """(strength of the effect, class accuracy, Fréchet distance to real pictures of it)."""
        weights, at = materialize.judge_weights(), materialize.EFFECTS.index(effect)
        seen = judge.look(weights, images)
        right = (seen.digits.argmax(1) == self.digits) & (seen.colours.argmax(1) == self.colours)
        real = tuple(weights[f"real.night.{effect}.{part}"] for part in ("mean", "covariance"))
        distance = judge.frechet(judge.gaussian(seen.features), real)
        return float(seen.effects[:, at].mean()), float(right.float().mean()), distance

    def score(self, base: str, images: torch.Tensor, effect: str, seed: int) -> tuple[float, float, float]:
        """(lift, class accuracy, Fréchet distance) of pictures from a seed on."""
        if (key := (base, effect, seed)) not in self.ends:
            trained = files.read(self.models[f"family_{effect}_{base}"])
            self.ends[key] = [self.look(self.drawn(base, one, seed), effect)[0] for one in (None, trained)]
        zero, one = self.ends[key]
        strength, right, distance = self.look(images, effect)
        return (strength - zero) / (one - zero), right, distance


def real_pictures(effect: str, count: int, seed: int) -> Dataset:
    """Real pictures of an effect in base A's look, with captions."""
    from lora_graft.family.training import data

    batch = data.render(count, effects=data.only(effect, count), generator=torch.Generator().manual_seed(seed))
    captions = [text.prompt(int(d), int(c)) for d, c in zip(batch.digits, batch.colours, strict=True)]
    return picture_dataset(batch.images.permute(0, 2, 3, 1), captions, _encode, drawing=DRAWING)


def _encode(picture: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(materialize.autoencoder(), picture.permute(0, 3, 1, 2))


def kinds(eye: Eye, counts: Sequence[int], steps: Sequence[int], effects: Sequence[str], seeds: Sequence[int]) -> list:
    """One table: every kind of adapter from so many pictures, on A and moved."""
    from lora_graft.family.denoiser import FamilyDenoiser

    bases = {letter: open_base(eye.models[f"family_{letter}"]) for letter in "abc"}
    rows: dict[str, list[list[float]]] = {}
    for count in counts:
        for number in steps:
            for kind, rank in KINDS:
                for effect in effects:
                    for seed in seeds:
                        how = Training(number, batch=32, accumulation=1, seed=seed)
                        made = distill(
                            real_pictures(effect, count, seed),
                            None,
                            FamilyDenoiser("a", eye.models),
                            [],
                            Distillation(kind=kind, rank=rank, training=how),
                        ).adapter
                        figures = [*eye.score("a", eye.drawn("a", made, seed), effect, seed)]
                        for letter in MOVES.values():
                            for method in ("copy", "lora-x"):
                                chosen = TransferSettings(method=method)
                                moved = transfer(made, bases["a"], bases[letter], chosen).adapter
                                images = eye.drawn(letter, moved, seed)
                                figures += eye.score(letter, images, effect, seed)[:2]
                        row = f"{count} pictures, {kind}, rank {rank}, {number} steps"
                        rows.setdefault(row, []).append(figures)
                        print(row, effect, seed, *(f"{f:.2f}" for f in figures), file=sys.stderr, flush=True)
    return rows_of(rows, ["A", "Fréchet", *(f"{name} {how}" for name in MOVES for how in ("copied", "projected"))])


def rows_of(rows: dict[str, list[list[float]]], names: Sequence[str]) -> list[str]:
    """Means over effects and seeds; but the Fréchet distance, every column is lift / class accuracy."""
    lines = ["| way | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, found in rows.items():
        values = torch.tensor(found).mean(0).tolist()
        cells = [f"{values[0]:.2f} / {values[1]:.2f}", f"{values[2]:.0f}"]
        cells += [f"{values[i]:.2f} / {values[i + 1]:.2f}" for i in range(3, len(values), 2)]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def beside_core(eye: Eye, steps: Sequence[int], seeds: Sequence[int]) -> list[str]:
    """Within ComfyUI: Distill Adapter's job and core's TrainLoraNode on the ten example pictures, rank 8, batch 10."""
    import comfy.sd
    from comfy_extras.nodes_train import TrainLoraNode
    from lora_graft.nodes.distilling import with_loras
    from lora_graft.nodes.host.denoiser import HostDenoiser

    with torch.inference_mode():
        clip = comfy.sd.load_clip([str(eye.models["family_clip_l"])], clip_type=comfy.sd.CLIPType.SD3)
        model = comfy.sd.load_diffusion_model(str(eye.models["family_a"]))
    found = open_folder(materialize.HERE / "pictures")
    pictures = torch.stack([read_picture(file) for file in found.pictures])
    dataset = picture_dataset(pictures, found.captions(), _encode, drawing=DRAWING)
    plain = HostDenoiser(model, clip)
    check = make_noisy_latents(dataset, plain, "samples", 480, 77, [])

    def loss(denoiser) -> float:
        prediction = predictions(check, denoiser, 64, lambda *_: None, 0, 1)
        return float(squared_error(prediction, check.target_prediction, check.sigma).mean())

    rows: dict[str, list[list[float]]] = {}

    def put(row: str, loras: list, seconds: float, seed: int) -> None:
        drawer = with_loras(model, clip, None, [(adapter, 1.0, 1.0) for adapter in loras])
        latents = drawer.draw(eye.prompts, range(seed, seed + eye.pictures), DRAWING, lambda *_: None)
        with torch.no_grad():
            images = vae.decode(materialize.autoencoder(), latents)
        figures = [seconds, loss(drawer), *eye.score("a", images, "stripes", seed)]
        rows.setdefault(row, []).append(figures)
        print(row, seed, *(f"{f:.3f}" for f in figures), file=sys.stderr, flush=True)

    for seed in seeds:
        put("base A alone", [], 0.0, seed)
        put("trained on 8,192 pictures, 500 steps", [files.read(eye.models["family_stripes_a"])], 0.0, seed)
    for number in steps:
        for seed in seeds:
            for kind, rank in KINDS[:2]:
                begun = time.process_time()
                how = Training(number, batch=10, accumulation=1, seed=seed)
                made = distill(dataset, None, plain, [], Distillation(kind=kind, rank=rank, training=how)).adapter
                put(f"Distill Adapter, {kind}, {number} steps", [made], time.process_time() - begun, seed)
            for rate in CORE_RATES:
                begun = time.process_time()
                state = TrainLoraNode.execute(*core_inputs(model, clip, dataset, number, rate, seed)).args[0]
                seconds = time.process_time() - begun
                state = {key: tensor.detach().clone() for key, tensor in state.items()}
                put(f"TrainLoraNode, rate {rate:g}, {number} steps", [files.from_state_dict(state)], seconds, seed)
    lines = ["| way | CPU seconds | loss | lift | class accuracy | Fréchet |", "|---|---|---|---|---|---|"]
    for row, values in rows.items():
        seconds, error, lift, right, distance = torch.tensor(values).mean(0).tolist()
        lines.append(f"| {row} | {seconds:.0f} | {error:.3f} | {lift:.2f} | {right:.2f} | {distance:.0f} |")
    return lines


def core_inputs(model, clip, dataset: Dataset, steps: int, rate: float, seed: int) -> list:
    """What TrainLoraNode's execute takes, in order: its defaults, but fp32 for a CPU and no blocks computed twice."""
    words = [clip.encode_from_tokens_scheduled(clip.tokenize(caption)) for caption in dataset.prompts]
    chosen = [model], [{"samples": dataset.taught}], words, [10], [steps], [1], [rate], [8], ["AdamW"], ["MSE"], [seed]
    return [*chosen, ["fp32"], ["fp32"], [False], ["LoRA"], [False], [1], [False], ["[None]"], [False], [False]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 50], help="pictures to learn from")
    parser.add_argument("--steps", nargs="+", type=int, default=[100])
    parser.add_argument("--effects", nargs="+", choices=materialize.EFFECTS, default=materialize.EFFECTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000, 2000])
    parser.add_argument("--quick", action="store_true", help="one seed, 40 pictures to judge")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the matrices are small")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    judged, seeds = (40, options.seeds[:1]) if options.quick else (80, options.seeds)
    with tempfile.TemporaryDirectory() as folder:
        inside = "comfy" in sys.modules
        eye = Eye(materialize.materialize(folder, text_encoder=inside), judged)
        if inside:
            lines = beside_core(eye, options.steps, seeds)
        else:
            lines = kinds(eye, options.counts, options.steps, options.effects, seeds)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
