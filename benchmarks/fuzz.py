"""The fuzzing campaign: broken and hostile inputs through every entrance, each held to the promise of docs/security.md.

    python benchmarks/fuzz.py --inputs 100000 --seed 1
    python benchmarks/fuzz.py --entrance "adapter: merge" --inputs 5000
    python benchmarks/fuzz.py --entrance checkpoint --seed 1 --only 4711    # one input again

Each entrance runs in a process of its own with 6 GB of address space, an alarm of ten seconds for each input, and a
look at the peak of its memory. A process that dies or does not answer for a minute counts as a finding, and the next
one goes on behind the input. Prints a table for the docs, and the findings told apart by where they come from.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "fuzz"
SILENCE = 60.0  # seconds
GOOD = ("right", "refused", "usage")
# Inputs that cost next to nothing get more of the campaign, whole batches less.
SHARES = {
    "adapter: inspect": 3.0,
    "adapter: metadata": 0.5,
    "batch: server's answers": 0.5,
    "node text: strengths": 1.5,
    "cache of subspaces": 1.5,
    "dataset": 1.5,
    "batch: manifest.jsonl": 1.5,
}


def play(name: str, seed: int, first: int, count: int) -> tuple[Counter, dict[str, int]]:
    """Outcomes of an entrance's inputs, and each finding's words with the first number that shows it."""
    outcomes: Counter = Counter()
    findings: dict[str, int] = {}
    end = first + count
    while first < end:
        command = [sys.executable, str(FOLDER / "campaign.py"), name, str(seed), str(first), str(end - first)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        watch = Watch(process)
        begun = first
        for line in process.stdout or ():
            watch.heard = time.monotonic()
            event = json.loads(line)
            if "begin" in event:
                begun = event["begin"]
                continue
            first = event["n"] + 1
            outcomes[event["outcome"]] += 1
            if event["what"]:
                findings.setdefault(event["what"], event["n"])
        process.wait()
        watch.over.set()
        if first < end:
            outcomes["hang" if watch.killed else "death"] += 1
            findings.setdefault(f"the process ended with {process.returncode}", begun)
            first = begun + 1
    return outcomes, findings


class Watch(threading.Thread):
    """Ends a process that says nothing for too long."""

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self.process, self.heard, self.killed, self.over = process, time.monotonic(), False, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(1):
            if time.monotonic() - self.heard > SILENCE:
                self.killed = True
                self.process.kill()
                return


def main() -> None:
    sys.path.insert(0, str(FOLDER))
    from entrances import ENTRANCES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="altogether")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--entrance", choices=list(ENTRANCES), help="this one alone")
    parser.add_argument("--only", type=int, help="the number of one input")
    chosen = parser.parse_args()
    names = [chosen.entrance] if chosen.entrance else list(ENTRANCES)
    total = sum(SHARES.get(name, 1.0) for name in names)
    rows, found, began = [], [], time.monotonic()
    for name in names:
        count = 1 if chosen.only is not None else max(round(chosen.inputs * SHARES.get(name, 1.0) / total), 1)
        outcomes, findings = play(name, chosen.seed, chosen.only or 0, count)
        bad = sum(n for outcome, n in outcomes.items() if outcome not in GOOD)
        rows.append((name, sum(outcomes.values()), outcomes["right"], outcomes["refused"] + outcomes["usage"], bad))
        news = [f"{name} {chosen.seed} {number}: {what}" for what, number in findings.items()]
        found += news
        print("\n".join([f"{rows[-1]} after {time.monotonic() - began:.0f} s", *news]), file=sys.stderr, flush=True)
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    print("| entrance | inputs | right result | clear error | promise broken |\n|---|--:|--:|--:|--:|")
    for row in rows:
        print(f"| {row[0]} | " + " | ".join(f"{n:,}" for n in row[1:]) + " |")
    print("\n".join(found))


if __name__ == "__main__":
    main()
