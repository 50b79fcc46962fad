"""How far an adapter moves samples, and which samples look like a few references."""

import pytest
import torch
from lora_graft.kernels.distill.filter import action, likeness


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_known_cases():
    plain = draw(8, 4, 6, 6, seed=1)
    assert torch.equal(action(plain, plain), torch.zeros(8))
    assert action(draw(8, 4, 6, 6, seed=2), plain).mean() == pytest.approx(1, abs=0.1), "as far as another seed"
    assert action(plain.roll(1, 0), plain).mean() == pytest.approx(1, abs=0.1)
    nudged = plain + 0.1 * (draw(8, 4, 6, 6, seed=3))
    assert action(nudged, plain).numpy() == pytest.approx(0.1 / 2**0.5, rel=0.15)


def test_only_the_samples_that_moved_count():
    plain = draw(6, 4, 4, 4, seed=1)
    taught = plain.clone()
    taught[2] += 1
    acts = action(taught, plain)
    assert acts[2] > 0.3 and acts[[0, 1, 3, 4, 5]].abs().max() == 0


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scale_free(factor):
    plain, taught = draw(5, 4, 4, 4, seed=1), draw(5, 4, 4, 4, seed=2)
    assert torch.allclose(action(factor * taught, factor * plain), action(taught, plain), rtol=1e-5)
    assert torch.allclose(action(taught + 7, plain + 7), action(taught, plain), rtol=1e-4), "and free of an offset"


def test_half_precision_and_a_single_sample():
    plain, taught = draw(1, 4, 8, 8, seed=1), draw(1, 4, 8, 8, seed=2)
    assert action(taught, plain) == pytest.approx(1, abs=0.15)
    assert torch.allclose(action(taught.half(), plain.half()), action(taught, plain), rtol=1e-2)


def two_kinds(count, distance, width=48, seed=0):
    """Embeddings of two classes whose means lie `distance` standard deviations apart along one direction."""
    way = draw(width, seed=seed)
    way *= distance / way.norm()
    return draw(count, width, seed=seed + 1) + way, draw(count, width, seed=seed + 2)


def test_separable_classes():
    ours, others = two_kinds(40, 12.0)
    ours_new, others_new = two_kinds(80, 12.0)
    found = likeness(ours, others, torch.cat([ours_new[40:], others_new[40:]]))
    assert found.shape == (80,)
    assert (found[:40] > 0.5).all() and (found[40:] < 0.5).all()
    assert found[:40].mean() > 0.85 and found[40:].mean() < 0.15


def test_overlapping_classes_give_middling_probabilities():
    """One standard deviation apart: the best rule is right for 69 %."""
    ours, others = two_kinds(200, 1.0, width=8)
    ours_new, others_new = two_kinds(600, 1.0, width=8)
    found = likeness(ours, others, torch.cat([ours_new[200:], others_new[200:]]))
    right = torch.cat([found[:400] > 0.5, found[400:] < 0.5]).float().mean()
    assert 0.6 < right < 0.76
    assert found.min() > 0.05 and found.max() < 0.95


def test_classes_that_are_one_give_half():
    same = draw(60, 16, seed=1)
    assert likeness(same, same, same).numpy() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("references", [1, 3])
def test_a_few_references_suffice_and_do_not_lose_by_their_number(references):
    ours, others = two_kinds(40, 10.0)
    found = likeness(ours[:references], others, torch.cat([ours[10:], others]))
    assert (found[:30] > 0.5).float().mean() > 0.9
    assert (found[30:] < 0.5).float().mean() > 0.9


def test_embeddings_of_any_scale_and_with_constant_columns():
    ours, others = two_kinds(20, 10.0)
    plain = likeness(ours, others, ours)
    scaled = likeness(1000 * ours - 3, 1000 * others - 3, 1000 * ours - 3)
    assert torch.allclose(plain, scaled, atol=1e-3)
    wide = [torch.cat([x, torch.full((len(x), 4), 2.5)], 1) for x in (ours, others)]
    found = likeness(*wide, wide[0] + torch.cat([torch.zeros(48), torch.ones(4)]))
    assert found.isfinite().all() and (found > 0.5).all()


def test_works_where_gradients_are_off():
    ours, others = two_kinds(20, 10.0)
    with torch.no_grad():
        assert (likeness(ours, others, ours) > 0.5).all()
