"""Every job ended at moments chosen at random: Ctrl-C, and memory that gives out; the promise is in docs/security.md.

    python benchmarks/moments.py
    python benchmarks/moments.py --job merge --count 100 --seed 5

Ctrl-C is a true SIGINT before a line of the package's own code; memory gives out there as Python, PyTorch on the CPU or
PyTorch on a GPU say it. After each: outputs are there whole or as they were, an error is a clear one that says what to
do, no input changed, no thread or process is left, and the next run ends with the bytes of an unbroken one. Prints a
table for the docs, and what did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))
TWO_THREADS = "merge, in two threads"


def main() -> None:
    import moments
    import torch
    from every_job import JOBS
    from faults import Tried

    jobs = {**JOBS, TWO_THREADS: JOBS["merge"]}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=list(jobs), help="this one alone")
    parser.add_argument("--count", type=int, default=200, help="moments of Ctrl-C in all (default: 200)")
    parser.add_argument("--memory", type=int, default=120, help="moments at which memory gives out (default: 120)")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    names = [chosen.job] if chosen.job else list(jobs)
    strikes = {"Ctrl-C": (moments.interrupt, chosen.count)}
    strikes |= {f"memory: {name}": (strike, chosen.memory // 3) for name, strike in moments.MEMORY.items()}
    print(
        "| job | what | lines to choose from | moments tried | succeeded all the same | clear error | ended | broken |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    findings = []
    for what, (strike, count) in strikes.items():
        total, broken = Tried(), 0
        for number, name in enumerate(names):
            torch.set_num_threads(2 if name == TWO_THREADS else 1)
            share = (count * (number + 1)) // len(names) - (count * number) // len(names)
            began = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                tried, found = moments.strike_often(jobs[name], Path(folder).resolve(), share, chosen.seed, strike)
            _row(name, what, tried, len(found))
            print(f"{name}: {time.process_time() - began:.0f} s of computing", file=sys.stderr, flush=True)
            findings += [f"{name}: {what} {finding}" for finding in found]
            broken += len(found)
            for field in vars(total):
                setattr(total, field, getattr(total, field) + getattr(tried, field))
        if not chosen.job:
            _row("all", what, total, broken)
    print("\n".join(findings))
    sys.exit(1 if findings else 0)


def _row(name: str, what: str, tried, broken: int) -> None:
    numbers = (tried.points, tried.faults, tried.worked, tried.failed, tried.killed, broken)
    print(f"| {name} | {what} | " + " | ".join(f"{n:,}" for n in numbers) + " |", flush=True)


if __name__ == "__main__":
    main()
