"""One ratio of noise to signal serves eps, v and flow models alike."""

import pytest
import torch
from lora_graft.kernels.distill import levels

RATIOS = torch.tensor([1e-3, 0.05, 0.4, 1.0, 3.0, 80.0], dtype=torch.float64)


def latents(seed):
    return torch.randn(len(RATIOS), 4, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answers(clean, noise, wrong):
    """x̂₀ of an eps, a v and a flow model that are all wrong about the noise by `wrong`, each in its own way to mix."""
    ratio = levels.along(RATIOS, clean)
    said = noise + wrong
    exploding = clean + ratio * noise  # variance exploding, σ = ρ
    eps = exploding - ratio * said
    alpha = 1 / (1 + ratio**2).sqrt()  # variance preserving: α² + σ² = 1, σ/α = ρ
    sigma = ratio * alpha
    preserving = alpha * clean + sigma * noise
    # The v that belongs to the noise it believes in: x₀ = (x − σε)/α, v = αε − σx₀
    believed = (preserving - sigma * said) / alpha
    v = alpha * preserving - sigma * (alpha * said - sigma * believed)
    time = levels.along(levels.flow_of_ratio(RATIOS), clean)
    noisy = levels.noised(clean, noise, RATIOS)
    believed = (noisy - time * said) / (1 - time)
    flow = noisy - time * (said - believed)
    return {"eps": eps, "v": v, "flow": flow}


def test_three_kinds_of_model_agree_at_one_ratio():
    clean, noise = latents(1), latents(2)
    for x0 in answers(clean, noise, torch.zeros_like(clean)).values():
        assert torch.allclose(x0, clean)
    told = answers(clean, noise, 0.1 * latents(3))
    assert not torch.allclose(told["eps"], clean)
    assert torch.allclose(told["eps"], told["v"]) and torch.allclose(told["eps"], told["flow"])


def test_the_flows_noisy_latent_is_the_exploding_ones_scaled():
    clean, noise = latents(1), latents(2)
    ratio = levels.along(RATIOS, clean)
    assert torch.allclose(levels.noised(clean, noise, RATIOS) * (1 + ratio), clean + ratio * noise)
    time = levels.along(levels.flow_of_ratio(RATIOS), clean)
    assert torch.allclose(levels.noised(clean, noise, RATIOS), (1 - time) * clean + time * noise)


def test_time_and_ratio_are_inverse():
    time = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    assert torch.allclose(levels.flow_of_ratio(levels.ratio_of_flow(time)), time)
    assert levels.ratio_of_flow(torch.tensor(0.5)) == 1
    assert levels.flow_of_ratio(torch.tensor(0.0)) == 0


def test_error_of_x0_is_the_flows_velocity_error():
    clean, noise, wrong = latents(1), latents(2), latents(3)
    noisy, time = levels.noised(clean, noise, RATIOS), levels.along(levels.flow_of_ratio(RATIOS), clean)
    velocity = noise - clean
    answer = noisy - time * (velocity + wrong)
    found = levels.squared_error(answer, clean, RATIOS)
    assert found.shape == (len(RATIOS),)
    assert torch.allclose(found.double(), wrong.square().flatten(1).mean(1), rtol=2e-2)  # float32 at ρ = 1e-3
    assert torch.allclose(found[2:].double(), wrong[2:].square().flatten(1).mean(1), rtol=1e-5)


def test_errors_are_counted_in_float32_whatever_comes_in():
    answer = torch.full((1, 4), 300.0, dtype=torch.float16)
    assert levels.squared_error(answer, -answer, torch.ones(1)) == pytest.approx(4 * 600**2)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_shares_fill_every_strip_once_in_random_order(count):
    shares = levels.spread(count, torch.Generator().manual_seed(4))
    assert ((shares >= 0) & (shares < 1)).all()
    assert sorted((shares * count).long().tolist()) == list(range(count))
    again = levels.spread(count, torch.Generator().manual_seed(4))
    assert torch.equal(shares, again)
    if count > 2:
        assert not torch.equal(shares, shares.sort().values)
        assert not torch.equal(shares, levels.spread(count, torch.Generator().manual_seed(5)))
