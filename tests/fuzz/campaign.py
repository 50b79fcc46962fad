"""Runs numbered inputs in this process: ``python campaign.py ENTRANCE SEED FIRST COUNT …``, four words an entrance.

Prints a JSON line for each input: {"entrance", "n", "outcome", "what", "s"}.
The same entrance, seed and number make the same input.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))


def play(name: str, seed: int, number: int, box) -> tuple[str, str]:
    """(outcome, what) of one input; the outcome of a finding is its kind."""
    from entrances import ENTRANCES
    from promise import Broken

    box.fresh()
    try:
        return ENTRANCES[name](Random(f"{name} {seed} {number}"), box), ""
    except Broken as finding:
        return finding.kind, str(finding)


def main() -> None:
    limit = 6 << 30  # the machine's own guard; the promise is checked more finely
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import torch
    from promise import Sandbox

    torch.set_num_threads(1)
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as root:
        box = Sandbox(Path(root))
        for name, seed, first, count in zip(*(words[i::4] for i in range(4)), strict=True):
            for number in range(int(first), int(first) + int(count)):
                began = time.perf_counter()
                _say(begin=number)
                outcome, what = play(name, int(seed), number, box)
                _say(entrance=name, n=number, outcome=outcome, what=what, s=round(time.perf_counter() - began, 3))


def _say(**what) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
