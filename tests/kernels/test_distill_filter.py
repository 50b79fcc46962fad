"""How far an adapter moves samples."""

import pytest
import torch
from lora_graft.kernels.distill.filter import action


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
