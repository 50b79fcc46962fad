"""What storing a base in fewer bits costs a LoRA: ``python benchmarks/storage.py [--out FILE.jsonl] [--quick]``.

The example family's bases A and B, their block weights stored as people store them. For each storage:

- error: median over the weights of ‖stored − full‖ / ‖full‖, and seconds to read all weights beside those of fp16;
- A, full → the same A, stored: Φ (corrected, median), drift (median), what the advice says;
- lift and class accuracy of A's LoRAs on the stored A (the LoRA on the full A is 1);
- A → B, stored: a plain copy, and the copy with 20 steps of learning on the stored weights (16 samples, 128 noisy
  latents), by the lift of quality.py (training on the full B is 1).

Figures are means over the three styles, one set of seeds. Each storage is a line of the file as soon as it is done.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch
from ledger import Ledger
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.family import judge, materialize, text
from lora_graft.family.sample import sample
from lora_graft.io import safetensors
from lora_graft.io.storage import open_weights
from lora_graft.jobs.distill.denoiser import Teacher
from lora_graft.jobs.distill.distill import Distillation, distill
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.schedule import Training
from lora_graft.jobs.transfer.compare import compare
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.spectral import SubspaceSize
from quality_distill import DRAWING, Bench
from torch import Tensor

Tensors = dict[str, Tensor]
BLOCKS = "joint_blocks."  # what people quantise; the rest stays in fp16
NF4 = (  # QLoRA (arXiv 2305.14314), appendix E
    (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453)
    + (-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0)
    + (0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224)
    + (0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
)


def plain(dtype: torch.dtype) -> Callable[[str, Tensor], Tensors]:
    return lambda name, weight: {name: weight.to(dtype)}


def scaled_fp8(name: str, weight: Tensor) -> Tensors:
    scale = weight.abs().max().clamp(min=1e-6) / 448
    return {name: (weight / scale).to(torch.float8_e4m3fn), name.removesuffix(".weight") + ".scale_weight": scale}


def int8_rows(name: str, weight: Tensor) -> Tensors:
    """LLM.int8 (arXiv 2208.07339)."""
    largest = weight.abs().amax(1)
    values = (weight / largest[:, None] * 127).round().to(torch.int8)
    return {name: values, name.removesuffix(".weight") + ".SCB": largest}


def nf4(name: str, weight: Tensor) -> Tensors:
    """QLoRA, blocks of 64, scales in float32."""
    blocks, levels = weight.reshape(-1, 64), torch.tensor(NF4)
    largest = blocks.abs().amax(1)
    codes = (blocks[..., None] / largest[:, None, None] - levels).abs().argmin(-1).to(torch.uint8).flatten()
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    return {
        name: (codes[::2] << 4 | codes[1::2])[:, None],
        f"{name}.absmax": largest,
        f"{name}.quant_map": levels,
        f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def comfy(kind: str, layout: str, **options) -> Callable[[str, Tensor], Tensors]:
    """One of ComfyUI's layouts, by the library with which it writes them."""

    def stored(name: str, weight: Tensor) -> Tensors:
        from comfy_kitchen import tensor as kitchen

        made = getattr(kitchen, layout)
        values, how = made.quantize(weight, **options)
        note = {"format": kind, **{n: v for n, v in options.items() if n.startswith("convrot")}}
        found = {f"{name}{suffix}": part.contiguous() for suffix, part in made.state_dict_tensors(values, how).items()}
        text_of_note = torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)
        return found | {name.removesuffix(".weight") + ".comfy_quant": text_of_note}

    return stored


STORED = {
    "fp16": plain(torch.float16),
    "bf16": plain(torch.bfloat16),
    "fp8 e4m3": plain(torch.float8_e4m3fn),
    "fp8 e5m2": plain(torch.float8_e5m2),
    "fp8 e4m3, scaled": scaled_fp8,
    "GGUF Q8_0": "Q8_0",
    "GGUF Q5_0": "Q5_0",
    "GGUF Q4_0": "Q4_0",
    "bitsandbytes int8": int8_rows,
    "bitsandbytes NF4": nf4,
    "ComfyUI int8": comfy("int8_tensorwise", "TensorWiseINT8Layout"),
    "ComfyUI mxfp8": comfy("mxfp8", "TensorCoreMXFP8Layout"),
    "ComfyUI nvfp4": comfy("nvfp4", "TensorCoreNVFP4Layout"),
    "ComfyUI int4 rotated": comfy("convrot_w4a4", "TensorCoreConvRotW4A4Layout", convrot_groupsize=64),
}


def quantised(name: str, weight: Tensor) -> bool:
    return BLOCKS in name and name.endswith(".weight") and weight.ndim == 2 and min(weight.shape) >= 64


def write(base: Tensors, kind: str, folder: Path) -> Path:
    """A base's file in one storage."""
    form, named = STORED[kind], {materialize.PREFIX + n: w for n, w in base.items()}
    if isinstance(form, str):
        return write_gguf(named, form, folder / "base.gguf")
    tensors: Tensors = {}
    for name, weight in named.items():
        tensors |= form(name, weight) if quantised(name, weight) else {name: weight.half()}
    return safetensors.save(folder / "base.safetensors", tensors)


def write_gguf(tensors: Tensors, form: str, path: Path) -> Path:
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, "sd3")
    for name, weight in tensors.items():
        stem, kind = name.removeprefix(materialize.PREFIX), gguf.GGMLQuantizationType[form]
        if quantised(name, weight):
            writer.add_tensor(stem, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(stem, weight.numpy().astype(numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path) -> tuple[Tensors, float]:
    """(weights by the family's names, processor seconds for all of them)."""
    started = time.process_time()
    file = open_weights(path)
    found = {name.removeprefix(materialize.PREFIX): file.load(name) for name in file.shapes()}
    return found, time.process_time() - started


class Storage:
    def __init__(self, models: dict[str, Path], pictures: int):
        self.models, self.pictures = models, pictures
        self.loras = {effect: adapters.read(models[f"family_{effect}_a"]) for effect in materialize.EFFECTS}
        self.bench = Bench(models, pictures, materialize.EFFECTS)
        self.full = {name: self.drawn(materialize.base(name), []) for name in "ab"}
        self.one = {
            (name, effect): self.drawn(
                materialize.base(name), [(adapters.read(models[f"family_{effect}_{name}"]), 1.0)]
            )
            for name in "ab"
            for effect in materialize.EFFECTS
        }

    def drawn(self, weights: Tensors, given: list) -> tuple[Tensor, float]:
        """(effect strengths (3,), share of right classes)."""
        index = torch.arange(self.pictures)
        digits, colours = index % 10, index // 10 % 4
        prompts = [text.prompt(int(d), int(c)) for d, c in zip(digits, colours, strict=True)]
        seeds = range(1000, 1000 + self.pictures)
        images = sample(weights, materialize.autoencoder(), prompts, seeds, adapters=given)
        verdict = judge.look(materialize.judge_weights(), images)
        right = (verdict.digits.argmax(1) == digits) & (verdict.colours.argmax(1) == colours)
        return verdict.effects.mean(0), right.float().mean().item()

    def lifts(self, name: str, weights: Tensors, made: Callable) -> tuple[float, float]:
        """(lift, class accuracy) on stored weights, means over the effects."""
        alone, figures = self.drawn(weights, [])[0], []
        for at, effect in enumerate(materialize.EFFECTS):
            strength, right = self.drawn(weights, [(made(effect), 1.0)])
            reach = self.one[name, effect][0][at] - self.full[name][0][at]
            figures.append((float((strength[at] - alone[at]) / reach), right))
        return fmean(lift for lift, _ in figures), fmean(right for _, right in figures)

    def learnt(self, effect: str, path: Path, weights: Tensors):
        """The copied LoRA after 20 steps on the stored B."""
        student = self.bench.denoiser("b")
        student.base, student.weights = open_base(path), weights
        lora = self.loras[effect]
        teacher = Teacher(self.bench.denoiser("a"), [self.bench.denoiser("a", [(lora, 1.0)])])
        dice = torch.Generator().manual_seed(0)
        draws = [torch.randint(n, (16,), generator=dice).tolist() for n in (10, 4)]
        lines = [text.prompt(*pair) for pair in zip(*draws, strict=True)]
        data = generate(teacher, student, lines, Generation(16, 100_000, DRAWING))
        how = Distillation(rank=8, noisy_latents=128, training=Training(steps=20, batch=16, accumulation=1))
        start = self.moved(effect, path, "b").adapter
        return distill(data, teacher, student, [lora], how, warm_start=start).adapter

    def moved(self, effect: str, path: Path, label: str):
        settings = TransferSettings(method="auto" if label == "a" else "copy")
        return transfer(self.loras[effect], open_base(self.models["family_a"]), open_base(path), settings)

    def row(self, kind: str) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            stored = {n: write(materialize.base(n), kind, made(Path(folder) / n)) for n in "ab"}
            (a, seconds), (b, _) = read(stored["a"]), read(stored["b"])
            full = materialize.base("a")
            errors = [float((a[n] - w).norm() / w.norm()) for n, w in full.items() if quantised(n, w)]
            report = compare(open_base(self.models["family_a"]), open_base(stored["a"]), SubspaceSize())
            moved = self.moved("frame", stored["a"], "a")
            own = self.lifts("a", a, self.loras.__getitem__)
            copied = self.lifts("b", b, lambda effect: self.moved(effect, stored["b"], "b").adapter)
            learnt = self.lifts("b", b, lambda effect: self.learnt(effect, stored["b"], b))
            return {
                "storage": kind,
                "bytes": stored["a"].stat().st_size,
                "seconds": seconds,
                "error": median(errors),
                "phi": report.totals["median_similarity"],
                "drift": report.totals["median_drift"],
                "advice": moved.report.advice,
                "reason": moved.report.advice_reason,
                "own": own,
                "copied": copied,
                "learnt": learnt,
            }


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def table(rows: list[dict]) -> None:
    usual = next((row["seconds"] for row in rows if row["storage"] == "fp16"), math.nan)
    pairs = "A's LoRA on A | A's LoRA copied to B | with 20 steps"
    print(f"| storage | size | error | reading | Φ | drift | {pairs} | advice |")
    print("|---" * 10 + "|")
    for row in rows:
        pairs = [f"{lift:.2f} / {right:.2f}" for lift, right in (row["own"], row["copied"], row["learnt"])]
        print(
            f"| {row['storage']} | {row['bytes'] / 1e6:.1f} MB | {row['error']:.2%} | {row['seconds'] / usual:.1f} × "
            f"| {row['phi']:.3f} | {row['drift']:.2%} | {' | '.join(pairs)} | {row['advice']} |"
        )
    for reason in dict.fromkeys(row["reason"] for row in rows):
        print(f"\n{', '.join(row['storage'] for row in rows if row['reason'] == reason)}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/storage.jsonl"))
    parser.add_argument("--quick", action="store_true", help="40 pictures instead of 80")
    parser.add_argument("--kinds", nargs="*", default=list(STORED), choices=list(STORED))
    asked = parser.parse_args()
    ledger = Ledger(asked.out)
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(materialize.materialize(folder, text_encoder=False), 40 if asked.quick else 80)
        for kind in asked.kinds:
            ledger.measured(kind, partial(storage.row, kind))
    table([ledger.found[kind] for kind in asked.kinds])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
