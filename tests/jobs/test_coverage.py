"""Files of other programs, as benchmarks/coverage_kinds.py makes them: no step loses or bends an update."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import coverage
from coverage_kinds import KINDS

SLOW = ("DoRA", "LoHa", "LoKr", "LyCORIS full")  # products and dense updates: left to the benchmark and to test_layouts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not any(word in kind for word in SLOW)])
def test_no_step_is_wrong(kind, tmp_path):
    cells = coverage.own_row(kind, tmp_path)
    assert cells[:2] == ["ok", KINDS[kind].recognised]
    assert not [cell for cell in cells if cell.startswith("WRONG")], cells
