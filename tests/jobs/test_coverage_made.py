"""LoRAs that other projects write themselves (benchmarks/coverage_made.py): their own loaders find the same update."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

coverage_made = pytest.importorskip(
    "coverage_made", reason="diffusers, LyCORIS and PEFT write and judge the files", exc_type=ImportError
)
STEPS = coverage_made.WRITTEN

# Kind of file -> judge -> its cells for: as it came, kohya, comfy, diffusers, peft, merge, resize
EXPECTED = {
    "LyCORIS LoHa, SD 1.5": {
        "own reader": ["ok"] * 7,
        "LyCORIS": ["ok", "ok", "none", "none", "none", "ok", "ok"],
    },
    "LyCORIS LoKr, Flux": {
        "own reader": ["ok"] * 7,
        "LyCORIS": ["ok", "none", "none", "none", "none", "ok", "ok"],
    },
    "PEFT LoRA, mixed ranks and alphas, SD 1.5": {
        "own reader": ["ok"] * 7,
        "PEFT": ["ok", "none", "none", "none", "ok", "ok", "ok"],
    },
    "PEFT DoRA, SD 1.5": {
        "own reader": ["ok", "base", "base", "ok", "ok", "ok", "ok"],
        "PEFT": ["ok", "base", "base", "none", "ok", "ok", "ok"],
        "diffusers": ["none", "base", "base", "ok", "none", "none", "none"],
    },
    "diffusers, mixed ranks and alphas, SD 1.5": {
        "own reader": ["ok"] * 7,
        "diffusers": ["ok", "ok", "none", "ok", "none", "ok", "ok"],
        "PEFT": ["none", "none", "none", "none", "ok", "none", "none"],
    },
    "diffusers, k alone, mixed ranks, Flux": {
        "own reader": ["ok"] * 7,
    },
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_loader_finds_the_makers_update(kind, tmp_path):
    found = coverage_made.rows(kind, tmp_path, judges=tuple(EXPECTED[kind]))
    for judge, cells in EXPECTED[kind].items():
        assert dict(zip(STEPS, found[judge], strict=True)) == dict(zip(STEPS, cells, strict=True)), judge
