"""Flux-sized bases as people store them, through the command line: ``python benchmarks/full_size.py [--folder DISK]``.

For each storage two checkpoints are made up, tensor by tensor: matrices of Flux' shapes with spectra like those of
trained weights, the second a fine-tune of the first, every weight its shape's matrix with the rows moved on. Then
``lora-graft transfer --method lora-x --k 128`` carries a LoRA of rank 16 on every weight from the one to the other, in
a new process with an empty cache, and a second LoRA in another. Wall and processor seconds of each, and the most
memory that the whole process held.

    --depth 19 38    double and single blocks; fewer take less disk and time, and hardly less memory
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from ledger import Ledger
from made_base import flux_shapes
from safetensors.torch import save_file
from storage import STORED
from torch import Tensor
from unets import lora_tensors, matrix, relative

KINDS = ("fp16", "fp8 e4m3", "fp8 e4m3, scaled", "GGUF Q8_0", "ComfyUI nvfp4")
PREFIX = "model.diffusion_model."
Shapes = dict[str, tuple[int, ...]]


def weights_of(shapes: Shapes, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name, weight (m, n) float32; a seed for each base."""
    pool = {shape: matrix(shape, seed=0) for shape in sorted(set(shapes.values()))}
    pool = {shape: relative(weight, seed=0) if seed else weight for shape, weight in pool.items()}
    for at, (name, shape) in enumerate(shapes.items()):
        yield name, pool[shape].roll(at, 0)


def write(shapes: Shapes, kind: str, seed: int, folder: Path) -> Path:
    """One base, never more than one weight of it in memory besides the pool."""
    form = STORED[kind]
    if isinstance(form, str):
        return write_gguf(shapes, form, seed, folder / f"base-{seed}.gguf")
    path, scratch, entries, at = folder / f"base-{seed}.safetensors", folder / "payload", {}, 0
    names = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.uint8: "U8", torch.int8: "I8"}
    names |= {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
    with open(scratch, "wb") as file:
        for name, weight in weights_of(shapes, seed):
            for key, part in form(PREFIX + name, weight).items():
                data = part.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                entries[key] = {
                    "dtype": names[part.dtype],
                    "shape": [*part.shape],
                    "data_offsets": [at, at + len(data)],
                }
                at += file.write(data)
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file, open(scratch, "rb") as payload:
        file.write(len(head).to_bytes(8, "little") + head)
        while block := payload.read(1 << 24):
            file.write(block)
    scratch.unlink()
    return path


def write_gguf(shapes: Shapes, form: str, seed: int, path: Path) -> Path:
    import gguf

    kind = gguf.GGMLQuantizationType[form]
    writer = gguf.GGUFWriter(path, "flux", use_temp_file=True)
    for name, weight in weights_of(shapes, seed):
        writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def timed(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """Wall and processor seconds, and peak resident megabytes, of a command in a process of its own."""
    begun = time.perf_counter()
    child = os.posix_spawn(command[0], command, env)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return {
        "wall": time.perf_counter() - begun,
        "processor": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }


def measure(kind: str, depth: tuple[int, int], threads: int, disk: Path | None) -> dict:
    with tempfile.TemporaryDirectory(dir=disk) as made:
        folder, shapes = Path(made), flux_shapes(*depth)
        with ProcessPoolExecutor(1, get_context("spawn")) as writer:  # a child's peak starts from its parent's
            source, target = (writer.submit(write, shapes, kind, seed, folder).result() for seed in (0, 1))
        env = {**os.environ, "LORA_GRAFT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": str(threads)}
        runs = []
        for seed in (1, 2):
            lora, output = folder / f"lora-{seed}.safetensors", folder / f"moved-{seed}.safetensors"
            save_file(lora_tensors(shapes, seed), lora)
            command = [sys.executable, "-m", "lora_graft.cli", "transfer", lora, "--source", source, "--target", target]
            runs.append(timed([*map(str, command), "--method", "lora-x", "--k", "128", "-o", str(output)], env))
        return {"bytes": source.stat().st_size, "weights": len(shapes), "first": runs[0], "second": runs[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(STORED))
    parser.add_argument("--depth", nargs=2, type=int, default=[19, 38], metavar=("DOUBLE", "SINGLE"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the checkpoints go, 48 GB for the pair in fp16")
    parser.add_argument("--out", type=Path, default=Path("out/full_size.jsonl"))
    asked = parser.parse_args()
    ledger, depth = Ledger(asked.out), (asked.depth[0], asked.depth[1])
    print("| storage | blocks | weights | one base, GB | first LoRA: wall s | processor s | peak MB ", end="")
    print("| second: wall s | processor s | peak MB |\n" + "|---" * 10 + "|")
    for kind in asked.kinds:
        name = f"{kind} {depth[0]}+{depth[1]}"
        ledger.measured(name, lambda kind=kind: measure(kind, depth, asked.threads, asked.folder))
        found = ledger.found[name]
        cells = " | ".join(
            f"{found[n]['wall']:.0f} | {found[n]['processor']:.0f} | {found[n]['peak']:.0f}"
            for n in ("first", "second")
        )
        print(
            f"| {kind} | {depth[0]} + {depth[1]} | {found['weights']} | {found['bytes'] / 1e9:.1f} | {cells} |",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
