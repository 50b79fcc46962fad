"""Every merge method against a dense float64 reference, and what all of them have in common."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.errors import SettingsError
from lora_graft.kernels import lowrank, stacked
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge import METHODS, lego, ties
from lora_graft.kernels.merge.sparsified import keep
from lora_graft.kernels.units import auto_rank

from .merge_samples import distance, elected_mean, entries, exact, lora, mixed, svd_cut, trimmed

DENSITY = 0.4


def bases(updates):
    """Left singular basis of all columns and right one of all rows, of the true rank."""
    u, s, _ = torch.linalg.svd(torch.cat([x.up.double() for x in updates], 1), full_matrices=False)
    _, t, vt = torch.linalg.svd(torch.cat([x.down.double() for x in updates], 0), full_matrices=False)
    return u[:, s > 1e-9 * s[0]], vt[t > 1e-9 * t[0]].T


def dense_knots(updates):
    m, n = updates[0].shape
    u, s, vt = torch.linalg.svd(torch.cat([entries(x) for x in updates], 1), full_matrices=False)
    live = s > 1e-9 * s[0]
    aligned = [trimmed(v, DENSITY) for v in vt[live].split(n, 1)]
    return u[:, live] * s[live] @ elected_mean(aligned)


def dense_core(updates):
    left, right = bases(updates)
    return left @ elected_mean([trimmed(left.T @ entries(x) @ right, DENSITY) for x in updates]) @ right.T


def dense_tsv(updates):
    factors = [torch.linalg.svd(entries(x), full_matrices=False) for x in updates]
    us = torch.cat([u[:, : x.rank] for (u, _, _), x in zip(factors, updates, strict=True)], 1)
    vs = torch.cat([vt[: x.rank] for (_, _, vt), x in zip(factors, updates, strict=True)], 0).T
    s = torch.cat([s[: x.rank] for (_, s, _), x in zip(factors, updates, strict=True)])
    polar = []
    for basis in (us, vs):
        p, _, q = torch.linalg.svd(basis, full_matrices=False)
        polar.append(p @ q)
    return polar[0] * s @ polar[1].T


def dense_iso(updates):
    u, s, vt = torch.linalg.svd(exact(updates), full_matrices=False)
    r = int((s > 1e-9 * s[0]).sum())
    return u[:, :r] * s[:r].mean() @ vt[:r]


def masks(updates, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(x.shape, generator=generator).double() for x in updates]


def dense_dare(updates):
    return sum(entries(x) * (draw < DENSITY) / DENSITY for x, draw in zip(updates, masks(updates, 5), strict=True))


def della_chances(matrix, density=DENSITY, epsilon=0.15):
    """mergekit's probabilities: ranks of the magnitudes in a row, 1..n, spread over density ± epsilon."""
    ranks = matrix.abs().argsort(1).argsort(1).double() + 1
    spread = (ranks - ranks.amin(1, keepdim=True)) / (ranks.amax(1, keepdim=True) - ranks.amin(1, keepdim=True))
    return density - epsilon + 2 * epsilon * spread


def dense_della(updates):
    pruned = []
    for x, draw in zip(updates, masks(updates, 5), strict=True):
        chance = della_chances(entries(x))
        pruned.append(entries(x) * (draw < chance) / chance)
    return elected_mean(pruned)


REFERENCES = {
    "concat": exact,
    "linear": lambda updates: exact(updates) / len(updates),
    "svd": exact,
    "ties": lambda updates: elected_mean([trimmed(entries(x), DENSITY) for x in updates]),
    "magnitude": lambda updates: sum(trimmed(entries(x), DENSITY) for x in updates),
    "dare": dense_dare,
    "della": dense_della,
    "knots": dense_knots,
    "core-ties": dense_core,
    "tsv": dense_tsv,
    "iso": dense_iso,
}


def run(name, updates, rank):
    """A method with those of the tests' options that it reads."""
    return METHODS[name].run(updates, rank, **METHODS[name].own({"density": DENSITY, "seed": 5}))


def test_every_method_of_the_menu_has_a_reference():
    assert list(METHODS) == [
        "lego",
        "concat",
        "linear",
        "svd",
        "ties",
        "dare",
        "della",
        "magnitude",
        "knots",
        "core-ties",
        "tsv",
        "iso",
    ]
    assert set(METHODS) - {"lego"} == set(REFERENCES)
    assert all(method.display and method.paper and method.name == name for name, method in METHODS.items())


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.8, 1.3, -0.6)])
def test_against_the_dense_reference_without_a_cut(name, weights):
    updates = [lowrank.scale(u, w) for u, w in zip(mixed(26, 30, (3, 8, 15)), weights, strict=True)]
    reference = REFERENCES[name](updates)
    merged = run(name, updates, None)
    # The ranks add up to min(m, n), so that entry-by-entry results lose nothing either.
    assert merged.update.rank <= 26
    assert distance(merged.update.dense(), reference) < 1e-5
    assert merged.error < 1e-6


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("rank", [1, 5, 11])
def test_against_the_dense_reference_cut_to_a_rank(name, rank):
    updates = mixed()
    reference = REFERENCES[name](updates)
    merged = run(name, updates, rank)
    assert merged.update.rank == rank
    if name == "iso":  # All its singular values are equal; the directions kept are the largest of the sum.
        u, s, vt = torch.linalg.svd(exact(updates), full_matrices=False)
        expected = u[:, :rank] @ vt[:rank] * s[:13].mean()
    else:
        expected = svd_cut(reference, rank)
    assert distance(merged.update.dense(), expected) < 2e-5
    assert merged.error == pytest.approx(distance(expected, reference), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([name for name in REFERENCES if name not in ("dare", "della")]),
    m=st.integers(5, 20),
    n=st.integers(5, 20),
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_any_shapes_and_ranks(name, m, n, ranks, seed):
    updates = [lora(m, n, r, 10 * seed + i, 0.5) for i, r in enumerate(ranks)]
    merged = run(name, updates, None)
    if name != "tsv" or sum(ranks) <= min(m, n):
        reference = REFERENCES[name](updates)
        best = svd_cut(reference, min(m, n, sum(ranks)))
        assert float((merged.update.dense() - best).norm()) <= 1e-4 * float(reference.norm()) + 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_order_of_the_loras_does_not_matter(name):
    if name in ("dare", "della"):
        pytest.skip("each LoRA has its own random mask")
    updates = mixed()
    first, second = (run(name, order, 6).update.dense() for order in (updates, updates[::-1]))
    assert distance(first, second) < 1e-5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rank", [None, 3, 50])
@pytest.mark.parametrize("case", ["zero", "one zero", "twice the same", "cancelling", "one only"])
def test_degenerate_updates(name, rank, case):
    a, b = mixed(ranks=(5, 4))
    updates = {
        "zero": [LowRank(a.up * 0, a.down), LowRank(b.up, b.down * 0)],
        "one zero": [LowRank(a.up * 0, a.down), b],
        "twice the same": [a, a],
        "cancelling": [a, lowrank.scale(a, -1)],
        "one only": [a],
    }[case]
    merged = run(name, updates, rank)
    assert merged.update.shape == (40, 28)
    assert merged.update.rank <= (rank or 10)
    assert all(factor.isfinite().all() and factor.dtype == torch.float32 for factor in merged.update)
    assert 0 <= merged.error <= 1.5
    if case == "zero" or (
        case == "cancelling" and name not in ("dare", "della", "ties", "knots", "core-ties", "lego", "tsv", "iso")
    ):
        assert float(merged.update.dense().norm()) <= 1e-5 * float(a.dense().norm())
    if case == "one only" and rank is None and name in ("lego", "concat", "linear", "svd", "tsv"):
        assert distance(merged.update.dense(), entries(a)) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_bad_input_is_refused(name):
    a, b = mixed(ranks=(3, 2))
    broken = LowRank(a.up.clone(), a.down)
    broken.up[0, 0] = float("nan")
    for updates, rank, words in (
        ([], None, "empty"),
        ([a, lora(40, 27, 2)], None, "different shapes"),
        ([a, b], 0, "at least 1"),
        ([a, broken], None, "NaN"),
    ):
        with pytest.raises(SettingsError, match=words):
            run(name, updates, rank)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (ties, {"density": 0}),
        (ties, {"density": 1.1}),
        (ties, {"density": float("nan")}),
        (lego, {"units": "best"}),
        (lego, {"restarts": 0}),
        (auto_rank, {"energy": 0}),
    ],
)
def test_bad_options_are_refused(function, options):
    with pytest.raises(SettingsError, match=next(iter(options))):
        function(mixed(), **options)


def test_options_are_those_of_the_signature():
    assert METHODS["ties"].run is ties and METHODS["ties"].options == {"density": 0.5}
    assert not METHODS["svd"].options and set(METHODS["dare"].options) == {"density", "seed"}
    assert METHODS["lego"].own({"units": "paper", "density": 0.1}) == {"units": "paper"}
    with pytest.raises(TypeError, match="density"):
        METHODS["svd"].run(mixed(), 3, density=0.1)


def test_factors_as_files_hold_them():
    up, down = torch.randn(8, 4).half(), torch.randn(4, 3, 2, 2).half()
    update = LowRank.of(up[..., None, None], down, torch.tensor(2.0))
    assert update.shape == (8, 12) and update.up.dtype == torch.float32
    assert distance(update.dense(), up.double() @ down.double().flatten(1) / 2) < 1e-6
    for wrong in ((up, down[:3]), (up[0], down), (down, down)):
        with pytest.raises(SettingsError, match="fit"):
            LowRank.of(*wrong)
    with pytest.raises(SettingsError, match="make no update"):
        lego([LowRank(up, down)])


def test_random_masks_follow_the_seed():
    updates = mixed()
    for name in ("dare", "della"):
        first, again, other = (METHODS[name].run(updates, 9, seed=seed).update for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert distance(first.dense(), other.dense()) > 0.01


def test_dare_keeps_the_mean():
    updates = mixed(12, 10, (2, 3))
    runs = [METHODS["dare"].run(updates, 10, seed=seed, density=0.7) for seed in range(400)]
    assert distance(torch.stack([run.update.dense() for run in runs]).mean(0), exact(updates)) < 0.1


@pytest.mark.parametrize("density", [0.05, 0.4, 0.9, 1.0])
def test_della_keeps_large_entries_more_often_and_the_density_on_average(density):
    matrix = lora(7, 50, 4).dense()
    chance = keep(matrix, density)
    assert float(chance.min()) > 0 and float(chance.max()) <= 1
    assert torch.allclose(chance.mean(1), torch.full((7,), density), atol=1e-6)
    order = matrix.abs().argsort(1)
    assert bool((chance.gather(1, order).diff(dim=1) >= -1e-7).all())
    if density == 0.4:
        assert torch.allclose(chance.double(), della_chances(matrix.double()), atol=1e-6)


def test_density_one_trims_nothing():
    updates = mixed()
    merged = METHODS["magnitude"].run(updates, None, density=1.0)
    assert distance(merged.update.dense(), exact(updates)) < 1e-5


@pytest.mark.parametrize("ranks", [(10, 8), (16, 16, 16), (40, 3)])
@pytest.mark.parametrize("rank", [3, 12])
def test_the_dense_way_agrees_with_the_factored_one(ranks, rank, monkeypatch):
    updates = mixed(48, 56, ranks)
    results = []
    for share in (0.0, 10.0):
        monkeypatch.setattr(stacked, "DENSE_SHARE", share)
        results.append(METHODS["svd"].run(updates, rank))
    expected = svd_cut(exact(updates), rank)
    for merged in results:
        assert distance(merged.update.dense(), expected) < 1e-4
        assert merged.error == pytest.approx(distance(expected, exact(updates)), abs=1e-4)


@pytest.mark.parametrize("kind", ["shared rows", "nearly shared rows", "wild scales"])
def test_ill_conditioned_factors(kind):
    a, b = mixed(ranks=(6, 5))
    if kind == "shared rows":
        b = LowRank(b.up, a.down[:5])
    elif kind == "nearly shared rows":
        b = LowRank(b.up, a.down[:5] + 1e-6 * b.down)
    else:
        sizes = torch.logspace(-6, 6, 6)
        a = LowRank(a.up / sizes, a.down * sizes[:, None])
    merged = METHODS["svd"].run([a, b], 4)
    assert distance(merged.update.dense(), svd_cut(exact([a, b]), 4)) < 1e-4


def test_the_result_is_balanced():
    for name in set(METHODS) - {"lego"}:
        update = run(name, mixed(), 5).update
        assert torch.allclose(update.up.norm(dim=0), update.down.norm(dim=1), rtol=1e-3), name
