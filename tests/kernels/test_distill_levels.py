"""One sigma, noise over signal, serves eps, v and flow models alike."""

import pytest
import torch
from lora_graft.kernels.distill import levels

SIGMAS = torch.tensor([1e-3, 0.05, 0.4, 1.0, 3.0, 80.0], dtype=torch.float64)


def latents(seed):
    return torch.randn(len(SIGMAS), 4, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predictions(clean, noise, wrong):
    """x̂₀ of an eps, a v and a flow model that are all wrong about the noise by `wrong`, each in its own way to mix."""
    sigma = levels.along(SIGMAS, clean)
    predicted = noise + wrong
    exploding = clean + sigma * noise  # variance exploding
    eps = exploding - sigma * predicted
    alpha = 1 / (1 + sigma**2).sqrt()  # variance preserving: α² + β² = 1, β/α = σ
    beta = sigma * alpha
    preserving = alpha * clean + beta * noise
    # The v that belongs to the noise it believes in: x₀ = (x − βε)/α, v = αε − βx₀
    believed = (preserving - beta * predicted) / alpha
    v = alpha * preserving - beta * (alpha * predicted - beta * believed)
    time = levels.along(levels.flow_of_sigma(SIGMAS), clean)
    noisy = levels.noised(clean, noise, SIGMAS)
    believed = (noisy - time * predicted) / (1 - time)
    flow = noisy - time * (predicted - believed)
    return {"eps": eps, "v": v, "flow": flow}


def test_three_kinds_of_model_agree_at_one_sigma():
    clean, noise = latents(1), latents(2)
    for x0 in predictions(clean, noise, torch.zeros_like(clean)).values():
        assert torch.allclose(x0, clean)
    wrong = predictions(clean, noise, 0.1 * latents(3))
    assert not torch.allclose(wrong["eps"], clean)
    assert torch.allclose(wrong["eps"], wrong["v"]) and torch.allclose(wrong["eps"], wrong["flow"])


def test_the_flows_noisy_latent_is_the_exploding_ones_scaled():
    clean, noise = latents(1), latents(2)
    sigma = levels.along(SIGMAS, clean)
    assert torch.allclose(levels.noised(clean, noise, SIGMAS) * (1 + sigma), clean + sigma * noise)
    time = levels.along(levels.flow_of_sigma(SIGMAS), clean)
    assert torch.allclose(levels.noised(clean, noise, SIGMAS), (1 - time) * clean + time * noise)


def test_time_and_sigma_are_inverse():
    time = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    assert torch.allclose(levels.flow_of_sigma(levels.sigma_of_flow(time)), time)
    assert levels.sigma_of_flow(torch.tensor(0.5)) == 1
    assert levels.flow_of_sigma(torch.tensor(0.0)) == 0


def test_error_of_x0_is_the_flows_velocity_error():
    clean, noise, wrong = latents(1), latents(2), latents(3)
    noisy, time = levels.noised(clean, noise, SIGMAS), levels.along(levels.flow_of_sigma(SIGMAS), clean)
    velocity = noise - clean
    answer = noisy - time * (velocity + wrong)
    found = levels.squared_error(answer, clean, SIGMAS)
    assert found.shape == (len(SIGMAS),)
    assert torch.allclose(found.double(), wrong.square().flatten(1).mean(1), rtol=2e-2)  # float32 at σ = 1e-3
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
