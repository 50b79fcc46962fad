"""Every call to the system of every job fails in turn, and what holds after it; the promise is in docs/security.md.

    python benchmarks/faults.py
    python benchmarks/faults.py --job merge --every 5

After each fault: the outputs are the old files or whole new ones, an error is a clear one, no input changed; the next
run, undisturbed, succeeds with the bytes of an unbroken run and leaves nothing beside them. Prints a table for the
docs, and what did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))


def main() -> None:
    import torch
    from every_job import JOBS
    from faults import KINDS, Tried, break_everywhere

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=list(JOBS), help="this one alone")
    parser.add_argument("--kind", choices=KINDS, help="this fault alone")
    parser.add_argument("--every", type=int, default=1, help="only each so-many-th point")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| job | points | faults tried | succeeded all the same | clear error | killed | promise broken |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    total, broken, everything = Tried(), 0, []
    for name in [chosen.job] if chosen.job else list(JOBS):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            kinds = (chosen.kind,) if chosen.kind else KINDS
            tried, findings = break_everywhere(JOBS[name], Path(folder).resolve(), kinds, chosen.every)
        _row(name, tried, len(findings))
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        everything += [f"{name}: {finding}" for finding in findings]
        broken += len(findings)
        for field in vars(total):
            setattr(total, field, getattr(total, field) + getattr(tried, field))
    if not chosen.job:
        _row("all", total, broken)
    print("\n".join(everything))


def _row(name: str, tried, broken: int) -> None:
    numbers = (tried.points, tried.faults, tried.worked, tried.failed, tried.killed, broken)
    print(f"| {name} | " + " | ".join(f"{n:,}" for n in numbers) + " |", flush=True)


if __name__ == "__main__":
    main()
