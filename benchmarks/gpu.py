"""What the GPU gives: right numbers, the fastest spectral routes, and seconds for whole models, in under eight minutes.

    python benchmarks/gpu.py [--only PART …] [--quick] [--device cuda] [--into FILE] [--dry-run]

Writes a dated section with the device's name into benchmarks/RESULTS.md (or FILE), part by part, each flushed to disk
as soon as it is done, so that a run that is cut off keeps what it has. Everything is made up on the spot: bases in
memory with the shapes of SDXL and Flux and spectra like those of trained weights, LoRAs of rank 16 on every weight.

- kernels: every spectral route, transfer method, merge method and kind of student on the device against the CPU, in
  float64 where the kernel takes it, with and without TF32 allowed by the process.
- routes: seconds of each spectral route by shape and k, the route that `choose` takes and the fastest.
- transfer, similarity: SDXL- and Flux-sized pairs, first LoRA (cold), second LoRA (warm), peak memory.
- merge: four rank-32 LoRAs of SDXL's shapes by LEGO, SVD and TIES, on the device and on the CPU.

Without a GPU it says so and ends with 0; `--device cpu --quick` tries the script itself. `--dry-run` runs nothing on
a device: it counts, on the CPU, what each route costs in operators (launches), products and bytes.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from gpu_accuracy import accuracy
from gpu_counts import counts
from lora_graft.jobs.cache import SubspaceCache
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.transfer.compare import compare
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
from lora_graft.kernels.precision import full_precision
from lora_graft.kernels.spectral import ROUTES, SubspaceSize, choose
from made_base import made_lora, made_pair, shapes_of
from unets import matrix

RESULTS = Path(__file__).with_name("RESULTS.md")
SIZES = (SubspaceSize(k=128), SubspaceSize(share=0.25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="small shapes: tries the script itself")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--into", type=Path, default=RESULTS)
    parser.add_argument("--dry-run", action="store_true", help="count operators, products and bytes on the CPU instead")
    args = parser.parse_args()
    if args.dry_run:
        print("\n".join(counts(shapes(args.quick), SIZES)))
        return
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no CUDA GPU that torch can use: nothing was measured.")
        return
    failed = False
    with args.into.open("a", encoding="utf-8") as file:
        for line in header(args):
            note(file, line)
        for name in args.only:
            start = time.perf_counter()
            try:
                for line in PARTS[name](args):
                    note(file, line)
                    failed |= line.endswith("| NO |")
            except Exception as error:  # One part that fails must not cost the others their figures.
                note(file, f"\n**{name} failed**: {type(error).__name__}: {error}".replace("\n", " "))
                failed = True
            note(file, f"\n({name}: {time.perf_counter() - start:.0f} s)\n")
    sys.exit(failed)


def note(file, line: str) -> None:
    """A line to the file and the terminal, on disk at once."""
    print(line, flush=True)
    file.write(line + "\n")
    file.flush()
    os.fsync(file.fileno())


def header(args) -> Iterator[str]:
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "CPU"
    yield f"\n## On a GPU: {name}, {datetime.date.today()}\n"
    yield f"`python benchmarks/gpu.py {' '.join(sys.argv[1:])}`".replace(" `", "`")
    yield f"torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} CPU cores."


def shapes(quick: bool) -> dict[tuple[int, int], str]:
    """The matrices of the models, each shape once, and the model that has it."""
    found: dict[tuple[int, int], str] = {}
    for model in ("quick",) if quick else ("sdxl", "flux"):
        for shape in shapes_of(model).values():
            found.setdefault((shape[0], torch.Size(shape[1:]).numel()), model)
    return found


def kernels(args) -> Iterable[str]:
    """Every kernel against float64."""
    yield "\n### Right numbers: relative error against the CPU\n"
    yield "| kernel | limit | error | error, TF32 allowed | right |\n|---|---|---|---|---|"
    yield from accuracy(args.device)


def routes(args) -> Iterable[str]:
    """Seconds of each route."""
    yield "\n### Spectral routes: seconds for one weight\n"
    yield "| weight | k | " + " | ".join(ROUTES) + " | chosen | fastest |\n|---|---|" + "---|" * (len(ROUTES) + 2)
    device = torch.device(args.device)
    for shape in sorted(shapes(args.quick)):
        weight = matrix(shape).to(device)
        for size in SIZES:
            k = size.resolve(shape)
            took = {name: clock(partial(run, weight, k), device) for name, run in ROUTES.items()}
            chosen = choose(shape, k, device.type)
            ready = {name: seconds for name, (seconds, found) in took.items() if found is not None}
            cells = [f"{took[n][0]:.4f}" if n in ready else "not trusted" for n in ROUTES]
            fastest = min(ready, key=ready.__getitem__)
            yield f"| {shape[0]}×{shape[1]} | {k} | {' | '.join(cells)} | {chosen} | {fastest} |"


def clock(work: Callable[[], object], device: torch.device, repeats: int = 2) -> tuple[float, object]:
    """Least seconds of some runs, the device's queue included, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        with full_precision():
            result = work()
        wait(device)
        best = min(best, time.perf_counter() - start)
    return best, result


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pairs(args) -> tuple[str, ...]:
    return ("quick", "flux-quick") if args.quick else ("sdxl", "flux")


@contextmanager
def peak(device: torch.device) -> Iterator[list[float]]:
    """Megabytes of the device's memory at the peak of the body; nothing on a CPU."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_allocated(device) / 2**20)


def transfers(args) -> Iterable[str]:
    """Whole pairs through the public job."""
    device = torch.device(args.device)
    yield "\n### Transfer: one LoRA of rank 16 on every weight, `lora-x`, a quarter of the width\n"
    yield "| pair | weights | cold, s | warm, s | peak memory of the device, MB |\n|---|---|---|---|---|"
    for model in pairs(args):
        source, target = made_pair(model)
        loras = [made_lora(model, seed) for seed in range(2)]
        with tempfile.TemporaryDirectory() as folder, peak(device) as memory:
            cache = SubspaceCache(folder, limit=1 << 36, memory=1 << 35)
            took = []
            for lora in loras:
                start = time.perf_counter()
                result = transfer(lora, source, target, TransferSettings(method="lora-x"), cache=cache, device=device)
                took.append(time.perf_counter() - start)
        moved = Counter(module.decision for module in result.report.modules)
        if set(moved) != {"lora-x"}:
            raise RuntimeError(f"not every module was projected: {dict(moved)}")
        yield f"| {model} | {sum(moved.values())} | {took[0]:.1f} | {took[1]:.2f} | {_megabytes(memory)} |"


def similarities(args) -> Iterable[str]:
    """Φ of all weights of a pair."""
    device = torch.device(args.device)
    yield "\n### Similarity of two bases, a quarter of the width, nothing cached\n"
    yield "| pair | weights | s | peak memory of the device, MB |\n|---|---|---|---|"
    for model in pairs(args):
        source, target = made_pair(model)
        with peak(device) as memory:
            start = time.perf_counter()
            report = compare(source, target, device=device)
            took = time.perf_counter() - start
        yield f"| {model} | {len(report.modules)} | {took:.1f} | {_megabytes(memory)} |"


def merges(args) -> Iterable[str]:
    """Four LoRAs into one."""
    model = "quick" if args.quick else "sdxl"
    loras = [(made_lora(model, seed, rank=32), 1.0, 1.0) for seed in range(4)]
    yield f"\n### Merge: four LoRAs of rank 32 into rank 32, {model}\n"
    yield f"| method | {args.device}, s | CPU, s | CPU/{args.device} |\n|---|---|---|---|"
    for method in ("lego", "svd", "ties"):
        took = []
        for where in (args.device, "cpu"):
            start = time.perf_counter()
            merge(loras, MergeSettings(method=method, rank=32), device=where)
            took.append(time.perf_counter() - start)
        yield f"| {method} | {took[0]:.1f} | {took[1]:.1f} | {took[1] / took[0]:.1f} |"


def _megabytes(memory: list[float]) -> str:
    return f"{memory[0]:.0f}" if memory else "–"


PARTS: dict[str, Callable[[argparse.Namespace], Iterable[str]]] = {
    "kernels": kernels,
    "routes": routes,
    "transfer": transfers,
    "similarity": similarities,
    "merge": merges,
}

if __name__ == "__main__":
    main()
