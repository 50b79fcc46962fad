"""What benchmarks/quality_chain.py is made of: a hop, a result that is kept, a table."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import quality_chain
import quality_distill
from lora_graft.family import materialize

SEED = 1000


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_distill, "DRAWING", replace(quality_distill.DRAWING, steps=2))
        models = materialize.materialize(tmp_path_factory.mktemp("models"), text_encoder=False)
        yield quality_distill.Bench(models, 10, ["frame"])
    torch.set_num_threads(threads)


def test_a_chain_goes_on_from_the_last_base_reached(bench, tmp_path):
    quick = replace(quality_chain.WAYS["distilled"], hop=partial(quality_chain.taught, steps=2))
    ways = {"copied": quality_chain.WAYS["copied"], "distilled": quick}
    results = quality_chain.Results(tmp_path)
    quality_chain.chain(bench, results, [SEED], ways, bases=("w", "c", "a"))
    found = {(way, hop): figures for (_, _, way, hop, _, _), figures in results.known.items()}
    assert {hop for way, hop in found if way == "distilled"} == {"1: W", "2: C", "3: A"}
    assert {hop for way, hop in found if way == "copied"} == {"2: C", "3: A"}
    assert 0.5 < found["copied", "3: A"]["lift"] < 0.95  # C has no weights for a third of the modules
    assert found["distilled", "1: W"]["evaluations"] > 0


def test_what_is_known_is_not_measured_again(bench, tmp_path):
    def fails():
        raise AssertionError

    first = quality_chain.Results(tmp_path)
    for seed, lift in ((1000, 0.5), (2000, 0.7)):
        first.figures(
            "part",
            "title",
            "row",
            "column",
            seed,
            "frame",
            make=lambda lift=lift: {"lift": lift, "class accuracy": 1.0},
        )
    again = quality_chain.Results(tmp_path)
    again.figures("part", "title", "row", "column", 1000, "frame", make=fails)
    assert "| row | 0.60 ± 0.10, 1.00 ± 0.00 |" in again.markdown()
    assert (tmp_path / "tables.md").read_text().strip() == again.markdown()


@pytest.mark.parametrize("part", ["scaling", "kinds"])
def test_the_other_parts_run(part, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(quality_chain, "taught", partial(quality_chain.taught, steps=2))
    for sizes in ("SAMPLES", "PROMPTS", "SEEDS"):
        monkeypatch.setattr(quality_chain, sizes, (4,))
    results = quality_chain.Results(tmp_path)
    if part == "scaling":
        quality_chain.scaling(bench, results, [SEED])
        assert results.markdown().count("| 4 |") == 3
    else:
        quality_chain.kinds(bench, results, [SEED], targets="s", ranks={"lora": 8, "dora": 4})
        assert "| dora, rank 4 |" in results.markdown() and len(results.known) == 6
