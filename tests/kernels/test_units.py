"""LEGO's units and clusters: forms, invariances, and k-means against scikit-learn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.errors import SettingsError
from lora_graft.kernels.kmeans import kmeans
from lora_graft.kernels.lowrank import LowRank, norm, scale
from lora_graft.kernels.units import auto_rank, scale_factors, units_of
from sklearn.cluster import KMeans

from .merge_samples import distance, entries, exact, lora, mixed, svd_cut

FORMS = ("paper", "balanced", "canonical")


def inertia(points, labels):
    return sum(float((points[labels == c] - points[labels == c].mean(0)).square().sum()) for c in set(labels.tolist()))


@pytest.mark.parametrize("form", FORMS)
def test_units_add_up_to_the_updates(form):
    updates = mixed()
    units = units_of(updates, form)
    whole = units.stacked.doubled()
    up, down = whole.up @ units.left, units.right @ whole.down
    assert distance(up @ down, exact(updates)) < 1e-6
    for lora_index, update in enumerate(updates):
        mine = units.owner == lora_index
        assert distance(up[:, mine] @ down[mine], entries(update)) < 1e-6
    assert sorted(units.position.tolist()) == list(range(13))
    assert [units.owner[units.position == i].item() for i in range(13)] == [0] * 6 + [1] * 3 + [2] * 4


def test_canonical_units_are_singular_pairs_and_balanced_ones_have_one_size():
    updates = mixed()
    units = units_of(updates, "canonical")
    whole = units.stacked.doubled()
    up, down = whole.up @ units.left, units.right @ whole.down
    for i, update in enumerate(updates):
        mine = (units.owner == i).nonzero()[:, 0]
        mine = mine[units.position[mine].argsort()]
        values = torch.linalg.svdvals(entries(update))[: update.rank]
        assert torch.allclose(up[:, mine].T @ up[:, mine], torch.diag(values), atol=1e-6)
        assert torch.allclose(down[mine] @ down[mine].T, torch.diag(values), atol=1e-6)
    units = units_of(updates, "balanced")
    gb, ga = units.gb, units.ga
    assert torch.allclose(ga.diagonal(), gb.diagonal(), rtol=1e-9)


def test_units_that_do_nothing_are_left_out():
    a = mixed()[0]
    half = LowRank(torch.cat([a.up, a.up[:, :2] * 0], 1), torch.cat([a.down, a.down[:2]], 0))
    assert len(units_of([half], "balanced").owner) == 6
    assert len(units_of([half], "canonical").owner) == 6
    assert len(units_of([half], "paper").owner) == 8
    assert len(units_of([scale(a, 0.0)], "canonical").owner) == 0


@pytest.mark.parametrize("strength", [1.0, 0.3, -2.0, 0.0])
def test_the_strength_goes_evenly_into_both_factors(strength):
    a = mixed()[0]
    scaled = scale_factors(a, strength)
    assert torch.allclose(scaled.dense(), strength * a.dense(), atol=1e-6)
    assert float(scaled.down.norm()) == pytest.approx(abs(strength) ** 0.5 * float(a.down.norm()), rel=1e-5)
    assert float(scaled.up.norm()) == pytest.approx(abs(strength) ** 0.5 * float(a.up.norm()), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 40), width=st.integers(1, 12), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_kmeans_gives_a_partition_with_its_true_inertia(count, width, k, seed):
    points = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = kmeans(points @ points.T, k, seed=seed, restarts=3)
    assert set(found.labels.tolist()) == set(range(min(k, count)))
    assert found.inertia >= inertia(points, found.labels) - 1e-8
    # First points of the clusters come in order, and each point is nearest to its own centre.
    firsts = [found.labels.tolist().index(c) for c in range(min(k, count))]
    assert firsts == sorted(firsts)
    centres = torch.stack([points[found.labels == c].mean(0) for c in range(min(k, count))])
    own = (points - centres[found.labels]).norm(dim=1)
    assert bool((own <= torch.cdist(points, centres).amin(1) + 1e-6).all())


def test_kmeans_is_as_good_as_scikit_learn():
    ours, theirs = [], []
    for seed in range(8):
        units = units_of([lora(96, 64, 8, 10 * seed + i, 0.7) for i in range(4)], "paper")
        up, down = units.stacked.doubled()
        points = torch.cat([(up @ units.left).T, units.right @ down], 1)
        gb, ga = units.gb, units.ga
        ours.append(kmeans(ga + gb, 8, seed=seed).inertia)
        theirs.append(KMeans(8, n_init=10, random_state=seed).fit(points.numpy()).inertia_)
        assert ours[-1] == pytest.approx(inertia(points, kmeans(ga + gb, 8, seed=seed).labels), rel=1e-9)
    assert sum(ours) <= 1.01 * sum(theirs)


def test_signed_kmeans_joins_a_point_and_its_negative():
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(5, 30, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (40,), generator=generator) * 2.0 - 1
    truth = torch.arange(40) % 5
    points = lines[truth] * signs[:, None] + 0.05 * torch.randn(40, 30, generator=generator, dtype=torch.float64)
    found = kmeans(points @ points.T, 5, kind="signed")
    assert found.labels.tolist() == truth.tolist()
    for c in range(5):
        relative = found.signs[truth == c] * signs[truth == c]
        assert bool((relative == relative[0]).all())
    assert found.inertia < 40 * 30 * 0.05**2 * 1.5


def test_equal_points_share_clusters_or_fill_them():
    points = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    assert kmeans(points @ points.T, 3).inertia == pytest.approx(0, abs=1e-9)
    assert set(kmeans(points @ points.T, 7).labels.tolist()) == set(range(7))
    assert set(kmeans(torch.zeros(6, 6, dtype=torch.float64), 4).labels.tolist()) == set(range(4))


@pytest.mark.parametrize("wrong", [{"k": 0}, {"restarts": 0}, {"kind": "circles"}])
def test_kmeans_refuses_what_it_cannot_do(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        kmeans(torch.eye(4, dtype=torch.float64), **({"k": 2} | wrong))


def test_an_unknown_form_of_units_is_refused():
    with pytest.raises(SettingsError, match="canonical, balanced, paper"):
        units_of(mixed(), "round")


def test_auto_rank_is_the_smallest_that_keeps_the_energy():
    updates = mixed(decay=1.0)
    for energy in (0.5, 0.9, 0.95, 0.999, 1.0):
        k, reason = auto_rank(updates, energy=energy)
        whole = exact(updates)
        kept = [float(svd_cut(whole, rank).square().sum() / whole.square().sum()) for rank in range(14)]
        assert kept[k] >= energy - 1e-9 and (k == 1 or kept[k - 1] < energy)
        assert f"rank {k}" in reason and "%" in reason
    a = updates[0]
    assert auto_rank([a, a], energy=1.0)[0] == a.rank
    assert auto_rank([a, scale(a, -1.0)])[0] == 1
    assert auto_rank([LowRank(a.up * 0, a.down)])[0] == 1
    assert norm(a) > 0
