"""2,000 broken and hostile inputs through every entrance, the same ones each time; benchmarks/fuzz.py plays more."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("httpx")
pytest.importorskip("websockets")
FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from entrances import ENTRANCES  # noqa: E402

SEED = "2025"
COUNTS = {name: 85 for name in ENTRANCES} | {
    "adapter: metadata": 80,
    "batch: server's answers": 80,
    "adapter: inspect": 300,
}


@pytest.fixture(scope="module")
def played():
    """What became of every input: (name, number) -> line; all in one process, which may die without harm to others."""
    words = [word for name, count in COUNTS.items() for word in (name, SEED, "0", str(count))]
    command = [sys.executable, FOLDER / "campaign.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    return [line for line in lines if "n" in line]


@pytest.mark.parametrize("name", ENTRANCES)
def test_every_input_ends_in_a_clear_error_or_a_right_result(name, played):
    mine = [line for line in played if line["entrance"] == name]
    assert len(mine) == COUNTS[name]
    assert not {line["n"]: line["what"] for line in mine if line["what"]}
    outcomes = Counter(line["outcome"] for line in mine)
    assert set(outcomes) <= {"right", "refused", "usage"}
    assert outcomes["right"] > 0  # the good ones among them still go through


def test_two_thousand_and_more(played):
    assert len(played) >= 2000
