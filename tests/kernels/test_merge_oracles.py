"""Merge methods against PEFT's ``add_weighted_adapter`` and mergekit's definitions: where they agree, and where not.

- cat and svd agree for positive weights; PEFT's svd_clamp is left off.
- linear: PEFT adds √w·A and √w·B apart, which creates cross terms B_i A_j, and does not divide by the number of LoRAs.
  With one shared A the cross terms vanish, and at equal weights its result is T times our average.
- ties: PEFT elects signs before it weighs and does not combine equal entries of opposite sign alike; at equal weights
  all agree. mergekit divides by the weights that agree, we by their number: a factor of w at equal weights.
- dare: PEFT draws its mask from torch's global state; the definitions agree for density 1 and in the mean.
- della: mergekit's probabilities, but it restores the L1 norm of the whole matrix where the paper divides by p.
"""

import pytest
import torch
from lora_graft.kernels import lowrank
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge import METHODS

from .merge_samples import distance, elected_mean, entries, exact, lora, svd_cut, trimmed

peft = pytest.importorskip("peft")
M, N, R, ALPHA = 24, 20, 4, 8


def combine(updates, weights, kind, **settings):
    """ΔW that PEFT makes of updates of one rank, which it holds as B, A with the scale ALPHA / R."""
    model = torch.nn.Sequential(torch.nn.Linear(N, M, bias=False))
    names = [f"lora{i}" for i in range(len(updates))]
    config = peft.LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    layer = model.base_model.model[0]
    for name, update in zip(names, updates, strict=True):
        layer.lora_A[name].weight.data = update.down.clone()
        layer.lora_B[name].weight.data = update.up * (R / ALPHA)
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind, **settings)
    return layer.get_delta_weight("merged").detach()


def weighted(updates, weights):
    return [lowrank.scale(u, w) for u, w in zip(updates, weights, strict=True)]


@pytest.fixture
def updates():
    return [lora(M, N, R, seed, decay=0.5) for seed in range(3)]


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.8, 1.3, 0.2]])
@pytest.mark.parametrize(("ours", "theirs", "rank"), [("concat", "cat", None), ("svd", "svd", 5)])
def test_cat_and_svd(updates, weights, ours, theirs, rank):
    settings = {} if rank is None else {"svd_rank": rank}
    merged = METHODS[ours].run(weighted(updates, weights), rank).update.dense()
    assert distance(merged, combine(updates, weights, theirs, **settings)) < 1e-5


def test_cat_takes_negative_weights(updates):
    weights = [1.0, -0.7, 0.4]
    merged = METHODS["concat"].run(weighted(updates, weights)).update.dense()
    assert distance(merged, combine(updates, weights, "cat")) < 1e-5


@pytest.mark.parametrize("weight", [1.0, 0.6])
def test_ties_at_equal_weights(updates, weight):
    weights = [weight] * 3
    merged = METHODS["ties"].run(weighted(updates, weights), 9, density=0.3).update.dense()
    assert distance(merged, combine(updates, weights, "ties_svd", svd_rank=9, density=0.3)) < 1e-5


def test_ties_at_other_weights_differs_in_the_election(updates):
    weights = [1.0, 0.2, 0.5]
    merged = METHODS["ties"].run(weighted(updates, weights), 20, density=0.3).update.dense()
    ours = elected_mean([trimmed(entries(u), 0.3) for u in weighted(updates, weights)])
    assert distance(merged, svd_cut(ours, 20)) < 1e-5 or distance(merged, svd_cut(ours, 12)) < 1e-5
    assert distance(combine(updates, weights, "ties_svd", svd_rank=20, density=0.3), ours) > 0.01


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.8, 1.3, -0.6]])
def test_magnitude(updates, weights):
    merged = METHODS["magnitude"].run(weighted(updates, weights), 7, density=0.3).update.dense()
    assert distance(merged, combine(updates, weights, "magnitude_prune_svd", svd_rank=7, density=0.3)) < 1e-5


def test_dare_drops_the_same_share_and_rescales_alike(updates):
    torch.manual_seed(0)
    # Alone an adapter is not thinned out by PEFT at all.
    whole = combine(updates[:2], [1.0, 0.0], "dare_linear_svd", svd_rank=N, density=0.6)
    for result in (whole, METHODS["dare"].run([padded(updates[0])], N, density=0.6).update.dense()):
        kept = result.abs() > 1e-5
        assert 0.5 < float(kept.float().mean()) < 0.7
        assert torch.allclose(result[kept], updates[0].dense()[kept] / 0.6, atol=1e-4)


def padded(update):
    """The same update with factors wide enough for any result."""
    fill = N - update.rank
    return LowRank(torch.cat([update.up, torch.zeros(M, fill)], 1), torch.cat([update.down, torch.zeros(fill, N)], 0))


def test_linear_has_no_cross_terms(updates):
    weights = [1.0, 1.0, 1.0]
    merged = METHODS["linear"].run(updates).update.dense()
    assert distance(merged, exact(updates) / 3) < 1e-5
    assert distance(combine(updates, weights, "linear"), exact(updates)) > 0.5
    # One A for all, split over the weights as √w: PEFT's sum of B and of A is (Σ B)(T A).
    shared = [LowRank(u.up, updates[0].down) for u in updates]
    merged = METHODS["linear"].run(shared).update.dense()
    assert distance(combine(shared, weights, "linear"), 9 * merged) < 1e-5


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.9, 0.4, 0.7]])
def test_ties_against_mergekit(updates, weights):
    """mergekit: trim δ, weigh, elect by the weighted sum, Σ w δ / Σ w over those that agree (``normalize``)."""
    density = 0.4
    trimmed_updates = [trimmed(entries(u), density) for u in updates]
    stack = torch.stack([w * update for w, update in zip(weights, trimmed_updates, strict=True)])
    agrees = stack.sign() == torch.where(stack.sum(0) >= 0, 1.0, -1.0)
    top = (stack * agrees).sum(0)
    by_weight = (torch.tensor(weights)[:, None, None] * agrees).sum(0)
    by_weight[by_weight == 0] = 1
    wide = [padded(lowrank.scale(u, w)) for u, w in zip(updates, weights, strict=True)]
    merged = METHODS["ties"].run(wide, N, density=density).update.dense()
    # Theirs times the mean weight of those that agree is ours.
    mean_weight = by_weight / agrees.sum(0).clamp_min(1)
    assert distance(merged, top / by_weight * mean_weight) < 1e-5
    if len(set(weights)) == 1:
        assert distance(merged, weights[0] * top / by_weight) < 1e-5


def test_dare_against_mergekit(updates):
    """mergekit's dare_linear: a random mask per task vector, rescaled, weighed, added; no normalisation."""
    density, weights = 0.4, [0.9, 0.4, -0.7]
    generator = torch.Generator().manual_seed(3)
    expected = torch.zeros(M, N, dtype=torch.float64)
    for update, weight in zip(updates, weights, strict=True):
        mask = (torch.rand(M, N, generator=generator) < density).double()
        expected += weight * (entries(update) * mask / density)
    wide = [padded(u) for u in weighted(updates, weights)]
    merged = METHODS["dare"].run(wide, N, density=density, seed=3).update.dense()
    assert distance(merged, expected) < 1e-5


def test_della_against_mergekit(updates):
    """The same entries survive; theirs are rescaled by one number per matrix, ours by 1/p each."""
    density, epsilon = 0.4, 0.15
    generator = torch.Generator().manual_seed(3)
    update = entries(updates[0])
    ranks = update.abs().argsort(1).argsort(1).double()
    chance = (density - epsilon) + ranks / (N - 1) * 2 * epsilon
    mask = (torch.rand(M, N, generator=generator) < chance).double()
    merged = METHODS["della"].run([padded(updates[0])], N, density=density, seed=3).update.dense()
    assert bool(((merged.abs() > 1e-5) == mask.bool()).all())
    assert distance(merged, update * mask / chance) < 1e-5
    theirs = update * mask * (update.abs().sum() / (update * mask).abs().sum())
    assert distance(merged, theirs) > 0.05
