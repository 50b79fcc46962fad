"""How fast merging is: the factored SVD cut against dense matrices, LEGO's k-means against scikit-learn, files to file.

    python benchmarks/merge.py [--quick] [--threads N] [--only svd|kmeans|files]

One run, ratios against what a user would otherwise use, on made-up LoRAs with SDXL's shapes (attention, feed-forward
and projections, 722 weights). Up factors fall off as i^-0.7, as trained ones do. Times of a whole model are those of
each distinct shape times how often it occurs. svd and kmeans count processor time, which other programs on the machine
hardly change, and time both sides of a shape right after each other; files is timed by the clock.

- svd: kohya's merge forms Σ ΔW and takes ``torch.linalg.svd`` of it with its default, full square U and V; "economy"
  is the same without them. Both are timed once per shape, as their time does not depend on the ranks. Agreement is the
  relative Frobenius distance between our result and the dense one, no clamp on either side.
- kmeans: the paper's units [a, b], as many clusters as one LoRA has units; ours from the factors on, Gram matrix
  included, scikit-learn's from the ready points on.
- files: four rank-32 LoRA files are read, merged by LEGO into rank 32 and written, in a fresh process.

Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from lora_graft.kernels import stacked
from lora_graft.kernels.kmeans import kmeans
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge import METHODS
from sklearn.cluster import KMeans
from torch import Tensor
from unets import make_lora, unet_shapes

METHOD_RANKS = [(t, r) for t in (2, 4, 8) for r in (4, 16, 32, 128)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small shapes only: under a minute")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("svd", "kmeans", "files"))
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.worker:
        print(json.dumps(merge_files(*args.worker)))
        return
    model = "quick" if args.quick else "sdxl"
    shapes = Counter(shape[:2] for shape in unet_shapes(model).values())
    print(
        f"{model}: {sum(shapes.values())} weights of {len(shapes)} shapes; {platform.machine()}, {args.threads} "
        f"thread(s), torch {torch.__version__}, load average {os.getloadavg()[0]:.1f} of {os.cpu_count()}.\n"
    )
    for name, part in (("svd", svd_table), ("kmeans", kmeans_table), ("files", files_table)):
        if args.only in (None, name):
            part(shapes, model)


def lora(shape: tuple[int, int], rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], rank, generator=generator) * torch.arange(1, rank + 1).float() ** -0.7
    return LowRank(0.01 * up, torch.randn(rank, shape[1], generator=generator) / shape[1] ** 0.5)


def seconds(function: Callable[..., object], *arguments, repeats: int = 3, **settings) -> float:
    """Least processor time of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function(*arguments, **settings)
        best = min(best, time.process_time() - start)
    return best


def dense_sum(updates: list[LowRank]) -> Tensor:
    """Σ ΔW as kohya's merge forms it."""
    return sum(update.dense() for update in updates)


def svd_table(shapes: Counter, model: str) -> None:
    """The best rank-r approximation of the sum, ours and the dense way."""
    full, economy = 0.0, 0.0
    rows = {pair: [0.0, 0.0, 0.0] for pair in METHOD_RANKS}  # form, ours, worst
    checked = [shape for shape in shapes if max(shape) <= 1280]
    for shape, count in shapes.items():
        matrix = dense_sum([lora(shape, 16, i) for i in range(4)])
        full += count * seconds(torch.linalg.svd, matrix, repeats=1)
        economy += count * seconds(torch.linalg.svd, matrix, full_matrices=False, repeats=1)
        for (loras, rank), row in rows.items():
            updates = [lora(shape, rank, i) for i in range(loras)]
            row[0] += count * seconds(dense_sum, updates)
            row[1] += count * seconds(METHODS["svd"].run, updates, rank, repeats=5)
            if shape in checked:
                row[2] = max(row[2], disagreement(updates, rank))
        print(f"{shape} done", file=sys.stderr, flush=True)
    print(
        f"### SVD-truncated merge\n\nDense, all weights: {full:.0f} s as kohya does it, {economy:.0f} s with economy "
        f"SVD, plus the time to form Σ ΔW. Agreement on {', '.join(f'{m}×{n}' for m, n in checked)}.\n"
    )
    print("| LoRAs | rank | ranks add up to | form Σ ΔW, s | ours, s | ratio to kohya | ratio to economy | agreement |")
    print("|---|---|---|---|---|---|---|---|")
    for (loras, rank), (form, ours, worst) in rows.items():
        print(
            f"| {loras} | {rank} | {loras * rank} | {form:.1f} | {ours:.2f} | {(full + form) / ours:.0f} "
            f"| {(economy + form) / ours:.0f} | {worst:.0e} |",
            flush=True,
        )
    print()


def disagreement(updates: list[LowRank], rank: int) -> float:
    """Relative Frobenius distance of our cut from the dense one."""
    u, s, vt = torch.linalg.svd(dense_sum(updates), full_matrices=False)
    reference = u[:, :rank] * s[:rank] @ vt[:rank]
    return float((METHODS["svd"].run(updates, rank).update.dense() - reference).norm() / reference.norm())


def points(updates: list[LowRank]) -> Tensor:
    """The paper's units [a, b], one per row."""
    return torch.cat([torch.cat([u.down, u.up.T], 1) for u in updates])


def kmeans_table(shapes: Counter, model: str) -> None:
    """LEGO's clustering of a whole model."""
    print("### k-means of LEGO's units, all modules\n\nInertia: mean over the modules, scikit-learn = 1.\n")
    print("| LoRAs | rank | scikit-learn, n_init=10, s | ours, restarts | ours, s | ratio | inertia |")
    print("|---|---|---|---|---|---|---|")
    for loras, rank in ((4, 16), (4, 32)):
        theirs, base = 0.0, 0.0
        ours = {restarts: [0.0, 0.0] for restarts in (10, 20, 40)}
        for shape, count in shapes.items():
            for draw in range(3):
                updates = [lora(shape, rank, 10 * draw + i) for i in range(loras)]
                ready = points(updates).numpy()
                other = KMeans(rank, n_init=10, random_state=0)
                theirs += count / 3 * seconds(other.fit, ready, repeats=1)
                for restarts, sums in ours.items():
                    sums[0] += count / 3 * seconds(cluster, updates, rank, restarts, repeats=2)
                    sums[1] += count / 3 * cluster(updates, rank, restarts) / other.inertia_
                base += count / 3
        for restarts, (took, inertia) in ours.items():
            print(
                f"| {loras} | {rank} | {theirs:.1f} | {restarts} | {took:.2f} | {theirs / took:.0f} "
                f"| {inertia / base:.4f} |",
                flush=True,
            )
    print()


def cluster(updates: list[LowRank], k: int, restarts: int) -> float:
    pooled = stacked.stack(updates)
    return kmeans(pooled.left + pooled.right, k, restarts=restarts).inertia


def files_table(shapes: Counter, model: str) -> None:
    """Four files to one, in a fresh process on two threads."""
    print("### Four rank-32 LoRA files to one, rank 32\n")
    print("| method | modules | read, s | merge, s | write, s | all, s | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = [make_lora(model, Path(folder) / f"{i}.safetensors", seed=i, rank=32) for i in range(4)]
        for method in ("lego", "svd", "concat"):
            command = [sys.executable, __file__, "--threads", "2", "--worker", method, Path(folder) / "out", *files]
            limits = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
            answer = subprocess.run(
                list(map(str, command)),
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, **limits},
                preexec_fn=two_cores,
            )
            row = json.loads(answer.stdout.splitlines()[-1])
            print(
                f"| {method} | {row['modules']} | {row['read']:.1f} | {row['merge']:.1f} | {row['write']:.1f} "
                f"| {row['read'] + row['merge'] + row['write']:.1f} | {row['memory']:.0f} |",
                flush=True,
            )


def two_cores() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def merge_files(method: str, out: str, *files: str) -> dict[str, float]:
    """Read, merge, write; seconds of each and the peak of resident memory."""
    from lora_graft import adapters
    from lora_graft.jobs.merge.merge import MergeSettings, merge

    times = [time.perf_counter()]
    loaded = [(adapters.read(file), 1.0, 1.0) for file in files]
    times.append(time.perf_counter())
    result = merge(loaded, MergeSettings(method=method, rank="sum" if method == "concat" else 32))
    times.append(time.perf_counter())
    adapters.write(result.adapter, f"{out}-{method}.safetensors", provenance=result.provenance)
    times.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    read, merged, wrote = (end - start for start, end in zip(times, times[1:], strict=False))
    return {"modules": len(result.adapter.modules), "read": read, "merge": merged, "write": wrote, "memory": peak}


if __name__ == "__main__":
    main()
