"""How much longer work takes beside programs that keep every core but one busy.

    python benchmarks/busy.py [--quick] [--repeats N] [--only NAME ...]

Generated LoRAs on every attention, feed-forward and projection weight of SDXL, rank 32; merge takes four of them;
transfer (auto and lora-x, 32 directions a side) one of rank 16 between two generated bases of two blocks 640 wide,
without a cache. Each job runs in a fresh process with PyTorch's own number of threads: once to warm
up, then N times. Beside them N-1 processes spin, where N is the number of cores.

Idle is the least of the repeats, as other programs on the machine can only add to it; busy is their median. The last
column says how many cores' worth of other work there was anyway while "idle" was measured (0 on a quiet machine).
Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unets import make_lora, make_pair

SPIN = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model: under a minute")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS), metavar="NAME")
    parser.add_argument("--worker", nargs=3, metavar=("NAME", "FOLDER", "REPEATS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, folder, repeats = args.worker
        print(json.dumps(timed(JOBS[name], Path(folder), int(repeats))))
        return
    with tempfile.TemporaryDirectory() as folder:
        size = make_files(Path(folder), quick=args.quick)
        print(f"One LoRA: {size / 1e6:.0f} MB. {cores()} cores, {cores() - 1} of them kept busy.\n")
        print("| job | idle, s | busy, s | ratio | other work while idle, cores |")
        print("|---|---|---|---|---|")
        for name in args.only:
            before, start = other_seconds(), time.monotonic()
            idle = run(name, folder, args.repeats)
            others = (other_seconds() - before) / (time.monotonic() - start) if before is not None else float("nan")
            with spinning(cores() - 1):
                busy = run(name, folder, args.repeats)
            print(
                f"| {name} | {min(idle):.2f} | {statistics.median(busy):.2f} "
                f"| {statistics.median(busy) / min(idle):.1f} | {others:.1f} |",
                flush=True,
            )


def make_files(folder: Path, *, quick: bool) -> int:
    """Everything the jobs read; the size of one LoRA."""
    for seed in range(4):
        make_lora("quick" if quick else "sdxl", folder / f"{seed}.safetensors", seed=seed, rank=32)
    make_lora("quick", folder / "small.safetensors", seed=0, rank=16)
    for path, name in zip(make_pair("quick", folder), ("source", "target"), strict=True):
        path.rename(folder / f"{name}.safetensors")
    return (folder / "0.safetensors").stat().st_size


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def other_seconds() -> float | None:
    """Processor seconds of the whole machine that were not ours; None where the system does not tell."""
    with suppress(OSError):
        user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
        own = os.times()
        return (user + nice + system) / os.sysconf("SC_CLK_TCK") - sum(own[:4])
    return None


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that do nothing but use a core."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def run(name: str, folder: str, repeats: int) -> list[float]:
    """Seconds of each repeat in a fresh process, no variable set that limits threads."""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    command = [sys.executable, __file__, "--worker", name, folder, str(repeats)]
    return json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


def timed(job: Callable[[Path], Callable[[], object]], folder: Path, repeats: int) -> list[float]:
    work, found = job(folder), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found[1:]


def read(folder: Path) -> Callable[[], object]:
    from lora_graft import adapters

    return lambda: adapters.read(folder / "0.safetensors")


def convert(folder: Path) -> Callable[[], object]:
    """Read, convert, write."""
    from lora_graft import adapters
    from lora_graft.jobs.convert import convert

    def work():
        made = convert(adapters.read(folder / "0.safetensors"), "kohya")
        adapters.write(made, folder / "out.safetensors", dtype="bf16", overwrite=True)

    return work


def resize(folder: Path) -> Callable[[], object]:
    from lora_graft import adapters
    from lora_graft.jobs.merge.resize import ResizeSettings, resize

    given = adapters.read(folder / "0.safetensors")
    return lambda: resize(given, ResizeSettings("rank", 8))


def merge(folder: Path) -> Callable[[], object]:
    """Read four, merge by LEGO to rank 32."""
    from lora_graft import adapters
    from lora_graft.jobs.merge.merge import MergeSettings, merge

    files = [folder / f"{i}.safetensors" for i in range(4)]
    return lambda: merge([(adapters.read(file), 1.0, 1.0) for file in files], MergeSettings(rank=32))


def transfer(folder: Path, method: str = "auto") -> Callable[[], object]:
    from lora_graft import adapters
    from lora_graft.bases import open_base
    from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
    from lora_graft.kernels.spectral import SubspaceSize

    bases = [open_base(folder / f"{name}.safetensors") for name in ("source", "target")]
    given = adapters.read(folder / "small.safetensors")
    return lambda: transfer(given, *bases, TransferSettings(method, SubspaceSize(k=32)))


def inspect(folder: Path) -> Callable[[], object]:
    from lora_graft.jobs.inspect import inspect

    return lambda: inspect(folder / "0.safetensors")


JOBS = {
    "read": read,
    "convert": convert,
    "resize": resize,
    "merge": merge,
    "inspect": inspect,
    "transfer": transfer,
    "transfer by lora-x": lambda folder: transfer(folder, "lora-x"),
}


if __name__ == "__main__":
    main()
