"""LEGO: the paper's algorithm step by step, the repairs, and what must not matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.kernels.lowrank import LowRank, norm, scale
from lora_graft.kernels.merge import lego, svd

from .merge_samples import distance, entries, exact, lora, mixed, svd_cut

FORMS = ("paper", "balanced", "canonical")


def shuffled(update, seed=0):
    order = torch.randperm(update.rank, generator=torch.Generator().manual_seed(seed))
    return LowRank(update.up[:, order], update.down[order])


def dense_paper(updates, merged, parameter, output):
    """The paper's construction from the clusters found, in float64, on concatenated vectors [a, b]."""
    units = torch.cat([torch.cat([u.down, u.up.T], 1) for u in updates]).double()
    labels, n = torch.tensor(merged.labels), updates[0].shape[1]
    k = int(labels.max()) + 1
    result = torch.zeros(updates[0].shape, dtype=torch.float64)
    for c in range(k):
        cluster = units[labels == c]
        centre = cluster.mean(0)
        if parameter:
            centre = centre * cluster.abs().amax(1).mean() / centre.abs().max()
        result += torch.outer(centre[n:], centre[:n])
    return result * ((len(units) / len(updates) / k) ** 0.5 if output else 1.0)


@pytest.mark.parametrize("parameter", [True, False])
@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_the_papers_form_against_a_dense_reference(k, parameter, output):
    updates = mixed(60, 44, (5, 5, 5))
    options = dict(units="paper", parameter_reweighting=parameter, output_reweighting=output)
    merged = lego(updates, k, **options)
    expected = dense_paper(updates, merged, parameter, output)
    assert merged.update.rank == k
    assert distance(merged.update.dense(), expected) < 1e-5
    assert merged.error == pytest.approx(distance(expected, exact(updates)), rel=1e-5)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_a_canonical_cluster_is_the_top_singular_pair_of_its_sum(k):
    updates = mixed(60, 44, (5, 3, 6))
    merged = lego(updates, k)
    pieces = []
    for update in updates:
        u, s, vt = torch.linalg.svd(entries(update), full_matrices=False)
        pieces += [s[i] * torch.outer(u[:, i], vt[i]) for i in range(update.rank)]
    expected = sum(
        svd_cut(sum(piece for piece, label in zip(pieces, merged.labels, strict=True) if label == c), 1)
        for c in range(k)
    )
    assert distance(merged.update.dense(), expected) < 1e-5
    owners = [i for i, update in enumerate(updates) for _ in range(update.rank)]
    for c, cluster in enumerate(merged.clusters):
        assert cluster == [owner for owner, label in zip(owners, merged.labels, strict=True) if label == c]


@pytest.mark.parametrize("form", FORMS)
def test_as_many_clusters_as_units_give_the_exact_sum(form):
    updates = mixed()
    for k in (13, 20):
        merged = lego(updates, k, units=form)
        assert merged.error == 0 and merged.update.rank == 13
        assert torch.equal(merged.update.up, torch.cat([u.up for u in updates], 1))
        assert torch.equal(merged.update.down, torch.cat([u.down for u in updates], 0))
        assert merged.clusters == [[i] for i in [0] * 6 + [1] * 3 + [2] * 4]


@pytest.mark.parametrize("form", FORMS)
def test_no_rank_means_that_of_the_largest_source(form):
    assert lego(mixed(), None, units=form).update.rank == 6


@settings(max_examples=25, deadline=None)
@given(form=st.sampled_from(FORMS), k=st.integers(1, 11), seed=st.integers(0, 99), data=st.data())
def test_order_of_loras_and_ranks_changes_no_byte(form, k, seed, data):
    updates = [lora(30, 22, r, 10 * seed + i, 0.5) for i, r in enumerate((5, 3, 4))]
    order = data.draw(st.permutations([0, 1, 2]))
    options = dict(units=form, seed=seed)
    first, second = lego(updates, k, **options), lego([shuffled(updates[i], seed) for i in order], k, **options)
    assert torch.equal(first.update.up, second.update.up) and torch.equal(first.update.down, second.update.down)
    assert first.error == second.error
    assert sorted(first.clusters) == sorted(sorted(order[i] for i in cluster) for cluster in second.clusters)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_bytes(form):
    for seed in (0, 7):
        options = dict(units=form, seed=seed)
        first, second = (lego(mixed(), 5, **options).update for _ in range(2))
        assert torch.equal(first.up, second.up) and torch.equal(first.down, second.down)


@pytest.mark.parametrize("form", ["balanced", "canonical"])
def test_repaired_units_do_not_depend_on_scale_and_sign(form):
    updates = mixed(60, 44)
    generator = torch.Generator().manual_seed(3)
    changed = []
    for update in updates:
        sizes = torch.exp(torch.randn(update.rank, generator=generator)) * (
            torch.randint(0, 2, (update.rank,), generator=generator) * 2 - 1
        )
        changed.append(LowRank(update.up / sizes, update.down * sizes[:, None]))
    for k in (2, 5, 9):
        first, second = (lego(u, k, units=form).update.dense() for u in (updates, changed))
        assert distance(first, second) < 1e-4


def test_the_papers_units_do_depend_on_scale():
    a, b = mixed(60, 44, (4, 4))
    first, second = (lego([x, b], 3, units="paper").update.dense() for x in (a, LowRank(a.up / 10, a.down * 10)))
    assert distance(first, second) > 0.1


def test_canonical_units_do_not_depend_on_any_change_of_basis():
    updates = mixed(60, 44)
    changed = []
    for seed, update in enumerate(updates):
        mix = torch.randn(update.rank, update.rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        down = torch.linalg.solve(mix, update.down.double())
        changed.append(LowRank((update.up.double() @ mix).float(), down.float()))
    for k in (2, 5, 9):
        first, second = (lego(u, k).update.dense() for u in (updates, changed))
        assert distance(first, second) < 1e-3


@pytest.mark.parametrize("form", ["paper", "balanced"])
@pytest.mark.parametrize("count", [2, 4, 7])
def test_reweighted_means_have_the_size_of_one_source(form, count):
    options = dict(units=form)
    # The size of a mean is told from its largest entry, which is noisy in one module: a LoRA has many.
    r = 4
    modules = [[lora(640, 512, r, 100 * i + j) for j in range(count)] for i in range(48)]
    one = sum(norm(update) ** 2 for updates in modules for update in updates) / count
    for k in (1, 2, r, 2 * r - 1, count * r - 1):
        size = sum(norm(lego(updates, k, **options).update) ** 2 for updates in modules)
        assert 0.9 < (size / one) ** 0.5 < 1.1, k


@pytest.mark.parametrize("count", [2, 4, 7])
def test_canonical_clusters_of_random_loras_at_the_rank_of_one_weigh_about_as_much(count):
    updates = [lora(640, 512, 4, j) for j in range(count)]
    assert 0.9 < norm(lego(updates, 4).update) / norm(updates[0]) < 1.15


def test_the_default_keeps_the_strength_of_a_chain_of_loaders():
    a = mixed()[0]
    for strengths in ((0.5, 0.5), (1.0, -0.4), (0.8, 1.0)):
        merged = lego([scale(a, w) for w in strengths], 6)
        assert distance(merged.update.dense(), sum(strengths) * entries(a)) < 1e-4


def test_one_lora_with_fewer_units_is_pruned():
    a = lora(60, 44, 8, decay=1.0)
    merged = lego([a], 3)
    best = svd([a], 3)
    assert merged.update.rank == 3
    # The units of one LoRA are orthogonal: the best clusters are the largest units and one of all the others.
    assert distance(merged.update.dense(), best.update.dense()) < 1e-5


def test_default_is_close_to_the_best_cut_on_decaying_updates():
    updates = [lora(200, 160, 8, seed, decay=1.0) for seed in range(3)]
    for k in (8, 12):
        assert lego(updates, k).error < 1.15 * svd(updates, k).error
