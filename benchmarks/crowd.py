"""Twenty processes on one cache, one output, one manifest; two batches on one server; odd folders and clocks.

    python benchmarks/crowd.py
    python benchmarks/crowd.py --processes 40 --case "one manifest"

The promise is in docs/security.md. Prints a table for the docs, and what did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))


def main() -> None:
    import torch
    from crowd import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), help="this one alone")
    parser.add_argument("--processes", type=int, default=20, help="at once; of the batches: prompts of each")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | what must be | broken |\n|---|---|--:|")
    findings = []
    for name in [chosen.case] if chosen.case else list(CASES):
        with tempfile.TemporaryDirectory() as folder:
            found = CASES[name](Path(folder).resolve(), chosen.processes)
        print(f"| {name} | {(CASES[name].__doc__ or '').strip()} | {len(found)} |", flush=True)
        findings += [f"{name}: {finding}" for finding in found]
    print("\n".join(findings))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
