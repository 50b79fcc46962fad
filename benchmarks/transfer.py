"""How fast transfer is, against a full SVD of every weight: seconds, memory, and what the shortcut costs in accuracy.

    python benchmarks/transfer.py [--quick] [--device cuda] [--threads N] [--only weights|models]

Weights are made up with spectra like those of trained ones (a power law over a floor of noise); the target is the
source with a fine-tune's worth of drift. First, shape by shape: our route against `torch.linalg.svd`, in turns, in one
process, and the error of Φ. The time a whole model's SVD would take is that of each distinct shape times how often it
occurs. Then whole models: two checkpoint files and a LoRA on all attention, feed-forward and projection weights go
through `jobs.transfer` in a fresh process; the first LoRA fills the cache of subspaces, the second finds it warm.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from lora_graft.kernels.similarity import phi
from lora_graft.kernels.spectral import SubspaceSize, choose, subspace
from unets import FLUX_SHAPES, QUICK_SHAPES, make_lora, make_pair, matrix, relative, unet_shapes

SIZES = (SubspaceSize(k=128), SubspaceSize(share=0.25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small shapes only: under a minute")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("weights", "models"))
    parser.add_argument("--models", nargs="+", choices=("sd15", "sdxl", "quick"), help="default: sd15 sdxl")
    parser.add_argument("--folder", type=Path, help="where the checkpoints go (SDXL-sized: 9 GB, removed afterwards)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.worker:
        print(json.dumps(run_worker(json.loads(args.worker))))
        return
    print(f"{machine(args)}\n")
    if args.only != "models":
        weights_table(args)
    if args.only != "weights":
        models_table(args)


def machine(args) -> str:
    where = torch.cuda.get_device_name() if args.device != "cpu" else platform.machine()
    return (
        f"{where}, {args.threads} CPU threads, torch {torch.__version__}, load average "
        f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} at the start."
    )


def weights_table(args) -> None:
    """Shape by shape."""
    sets = {"quick": (QUICK_SHAPES, Counter())} if args.quick else {}
    if not args.quick:
        for model in ("sd15", "sdxl"):
            counts = Counter(shape[:2] for shape in unet_shapes(model).values())
            sets[model] = ([s for s in counts if min(s) >= 640 or model == "sd15"], counts)
        sets["flux"] = (list(FLUX_SHAPES), Counter(FLUX_SHAPES))
    timed: dict[tuple, dict] = {}
    for shapes, _ in sets.values():
        for shape in shapes:
            if shape not in timed:
                timed[shape] = time_shape(shape, args.device)
    print("Per weight: seconds for one weight; ratio to a full SVD in the same run; largest |ΔΦ| of both sides.\n")
    print("| weight | full SVD | k | route | seconds | ratio | \\|ΔΦ\\| |\n|---|---|---|---|---|---|---|")
    for shape, found in timed.items():
        for row in found["rows"]:
            print(
                f"| {shape[0]}×{shape[1]} | {found['svd']:.3f} | {row['k']} ({row['size']}) | {row['route']} | "
                f"{row['seconds']:.3f} | {found['svd'] / row['seconds']:.1f} | {row['error']:.1e} |"
            )
    print("\nBy width (all shapes of one smaller side, each once):\n")
    print("| width | size | ratio | least ratio |\n|---|---|---|---|")
    for width in sorted({min(s) for s in timed}):
        for i, size in enumerate(SIZES):
            group = [f for s, f in timed.items() if min(s) == width]
            ours = sum(f["rows"][i]["seconds"] for f in group)
            least = min(f["svd"] / f["rows"][i]["seconds"] for f in group)
            print(f"| {width} | {size} | {sum(f['svd'] for f in group) / ours:.1f} | {least:.1f} |")
    if args.quick:
        return
    print("\nOne whole model, extrapolated from the shapes by how often each occurs:\n")
    print("| model | weights | full SVD, s | " + " | ".join(f"{s}, s | ratio" for s in SIZES) + " |")
    print("|---|---|---|" + "---|---|" * len(SIZES))
    for model, (_, counts) in sets.items():
        seen = {s: n for s, n in counts.items() if s in timed}
        svd = sum(timed[s]["svd"] * n for s, n in seen.items())
        ours = [sum(timed[s]["rows"][i]["seconds"] * n for s, n in seen.items()) for i in range(len(SIZES))]
        cells = " | ".join(f"{t:.0f} | {svd / t:.1f}" for t in ours)
        print(f"| {model} | {sum(seen.values())} | {svd:.0f} | {cells} |")
    print()


def time_shape(shape: tuple[int, int], device: str) -> dict:
    """Our routes and the full SVD by turns (best of two each), and the error of Φ against it."""
    weight = matrix(shape).to(device)
    other = relative(weight.cpu(), seed=1).to(device)
    both = (weight, other)
    best: dict = {}
    exact = []
    found: dict = {size: [] for size in SIZES}
    for w in both:
        seconds, result = clock(lambda w=w: torch.linalg.svd(w, full_matrices=False), device)
        best["svd"] = min(best.get("svd", seconds), seconds)
        exact.append(result)
        for size in SIZES:
            k = size.resolve(shape)
            for _ in range(2):
                seconds, result = clock(lambda w=w, k=k: subspace(w, k), device)
                best[size] = min(best.get(size, seconds), seconds)
            found[size].append(result)
    if device != "cpu":  # The reference is float64 where single precision may differ from the CPU's.
        exact = [torch.linalg.svd(w.double(), full_matrices=False) for w in both]
    rows = []
    for size in SIZES:
        k = size.resolve(shape)
        errors = [
            abs(phi(found[size][0].left, found[size][1].left) - phi(exact[0][0][:, :k], exact[1][0][:, :k])),
            abs(phi(found[size][0].right, found[size][1].right) - phi(exact[0][2][:k].T, exact[1][2][:k].T)),
        ]
        route = choose(shape, k, weight.device.type)
        rows.append({"k": k, "size": str(size), "route": route, "seconds": best[size], "error": max(errors)})
    return {"svd": best["svd"], "rows": rows}


def clock(work, device: str):
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def models_table(args) -> None:
    """Whole models through the public job, in processes of their own."""
    print("Whole pairs of models, one LoRA of rank 16 on every weight, `--method lora-x`:\n")
    print("| pair | size | first LoRA, s | second, s | times faster | second in a new process, s | ", end="")
    print("peak memory above the interpreter, MB | cache, MB |\n|---|---|---|---|---|---|---|---|")
    for model in args.models or (["quick"] if args.quick else ["sd15", "sdxl"]):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            source, target = make_pair(model, Path(folder))
            loras = [make_lora(model, Path(folder) / f"lora{i}.safetensors", seed=i) for i in range(2)]
            for size in SIZES:
                cache = Path(folder) / f"cache-{size}"
                task = {
                    "source": str(source),
                    "target": str(target),
                    "cache": str(cache),
                    "device": args.device,
                    "size": {"k": size.k, "share": size.share},
                }
                first = fresh_process(args, {**task, "loras": [str(x) for x in loras]})
                again = fresh_process(args, {**task, "loras": [str(loras[1])]})
                cold, warm = first["seconds"]
                stored = sum(f.stat().st_size for f in cache.iterdir()) / 2**20
                print(
                    f"| {model} | {size} | {cold:.1f} | {warm:.2f} | {cold / warm:.0f} | {again['seconds'][0]:.2f} "
                    f"({cold / again['seconds'][0]:.0f}×) | {first['peak_mb']:.0f} | {stored:.0f} |",
                    flush=True,
                )


def fresh_process(args, task: dict) -> dict:
    command = [sys.executable, __file__, "--threads", str(args.threads), "--worker", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run_worker(task: dict) -> dict:
    """Transfer each LoRA with the same two open bases; seconds of each, and the peak of resident memory."""
    from lora_graft.adapters import read
    from lora_graft.bases import open_base
    from lora_graft.jobs.cache import SubspaceCache
    from lora_graft.jobs.transfer.transfer import TransferSettings, transfer

    torch.linalg.svd(torch.randn(64, 64, device=task["device"]))  # Libraries loaded, threads started.
    before = peak_mb()
    settings = TransferSettings(method="lora-x", size=SubspaceSize(**task["size"]))
    cache = SubspaceCache(task["cache"])
    source, target = open_base(task["source"]), open_base(task["target"])
    seconds = []
    for lora in task["loras"]:
        start = time.perf_counter()
        result = transfer(read(lora), source, target, settings, cache=cache, device=task["device"])
        seconds.append(time.perf_counter() - start)
        assert all(m.decision == "lora-x" for m in result.report.modules)
    return {"seconds": seconds, "peak_mb": peak_mb() - before}


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Unlike getrusage, not inherited from the process that started this one.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
