"""Resize rules against kohya's definitions, written out on all singular values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.errors import SettingsError
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge.resize import RULES, choose_rank, resize

from .merge_samples import distance, entries, lora, svd_cut


def kohya(values, rule, amount):
    """`sv_ratio`, `sv_cumulative` and `sv_fro`, counted one value at a time."""
    values = [float(v) for v in values]
    if rule == "rank":
        return int(amount)
    if rule == "ratio":
        return sum(v > values[0] / amount for v in values)
    powers = {"cumulative": values, "energy": [v * v for v in values], "frobenius": [v * v for v in values]}[rule]
    target = amount**2 if rule == "frobenius" else amount
    done = 0.0
    for count, power in enumerate(powers, 1):
        done += power
        if done >= target * sum(powers) * (1 - 1e-9):
            return count
    return len(powers)


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(list(RULES)),
    r=st.integers(1, 10),
    decay=st.floats(0, 2),
    seed=st.integers(0, 50),
    share=st.floats(0.05, 1.0),
)
def test_rules(rule, r, decay, seed, share):
    update = lora(22, 17, r, seed, decay)
    amount = {"rank": 1 + round(share * 12), "ratio": 1 + 20 * share}.get(rule, share)
    values = torch.linalg.svdvals(entries(update))[:r]
    expected = min(max(kohya(values, rule, amount), 1), r)
    merged = resize(update, rule, amount)
    assert choose_rank(values, rule, amount) == expected
    assert merged.update.rank == expected
    best = svd_cut(entries(update), expected)
    assert distance(merged.update.dense(), best) < 1e-4
    assert merged.error == pytest.approx(distance(best, entries(update)), abs=1e-5)


@pytest.mark.parametrize(
    ("rule", "amount"),
    [
        ("rank", 0),
        ("ratio", 0.5),
        ("cumulative", 1.1),
        ("energy", 0),
        ("frobenius", -1),
        ("rank", float("inf")),
        ("energy", float("nan")),
        ("best", 1),
    ],
)
def test_bad_rules_are_refused(rule, amount):
    with pytest.raises(SettingsError):
        resize(lora(10, 10, 3), rule, amount)


def test_an_update_that_does_nothing():
    update = lora(10, 8, 3)
    merged = resize(LowRank(update.up * 0, update.down), "energy", 0.9)
    assert merged.update.shape == (10, 8) and float(merged.update.dense().norm()) == 0 and merged.error == 0
