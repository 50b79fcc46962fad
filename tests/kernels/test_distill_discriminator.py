"""Discriminators: what they tell apart, how honest their cross-validation is, and samples with a pair among the others.

The simulation draws embeddings of 768 independent numbers; an effect moves each by `shift` standard deviations along
one random direction of that length.
"""

import pytest
import torch
import torch.nn.functional as F
from lora_graft.kernels.distill.discriminator import likeness, train

WIDTH, SEEDS = 768, 8


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def share(probabilities):
    return (probabilities >= 0.5).double().mean().item()


def before(references, others, samples):
    """What was done before: one fit, the samples' own pairs among its negatives, its threshold where the fit had it."""
    both = torch.cat([references, others]).double()
    mean, scale = both.mean(0), both.std(0)
    x = (both - mean) / scale / WIDTH**0.5
    truth = torch.cat([torch.ones(len(references)), torch.zeros(len(others))]).double()
    weight = torch.where(truth > 0, 0.5 / len(references), 0.5 / len(others))
    w = torch.zeros(WIDTH + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ w[1:] + w[0], truth, weight=weight, reduction="sum")
        value = value + 1e-2 * w[1:].square().sum() / 2
        value.backward()
        return value

    solver.step(loss)
    return (((samples.double() - mean) / scale / WIDTH**0.5) @ w[1:] + w[0]).detach().sigmoid()


class World:
    """Embeddings: `real` pictures, samples with the effect and their pairs without, and fresh ones of either kind."""

    def __init__(self, seed, shift, real=5, count=32, prompts=0):
        dice = torch.Generator().manual_seed(seed)
        way = torch.randn(WIDTH, generator=dice)
        way *= shift * WIDTH**0.5 / way.norm()
        content = torch.randn(max(prompts, 1), WIDTH, generator=dice) * (prompts > 0)

        def pictures(number, subjects):
            return torch.randn(number, WIDTH, generator=dice) + content[torch.arange(number) % len(subjects)]

        def elsewhere(number):  # of other prompts, each its own
            return torch.randn(number, WIDTH, generator=dice) * (2**0.5 if prompts else 1)

        self.groups = torch.arange(count) % len(content) if prompts else None
        self.real, self.plain = elsewhere(real) + way, pictures(count, content)
        self.samples = self.plain + way
        self.fresh, self.fresh_plain = pictures(200, content) + way, pictures(200, content)
        self.elsewhere = elsewhere(count)


def mean_over_seeds(figures, *given, **more):
    return torch.tensor([figures(World(seed, *given, **more)) for seed in range(SEEDS)]).double().mean(0).tolist()


def test_the_bias_of_pairs_and_its_repair():
    """The figures of RESULTS.md: five real pictures, half a standard deviation for each number."""

    def figures(world):
        trained, _ = train(world.real, world.elsewhere)
        paired = likeness(world.real, world.plain, world.samples)
        return [
            share(before(world.real, world.plain, world.samples)),
            share(before(world.real, world.plain, world.fresh)),
            share(paired),
            share(trained.probability(world.samples)),
            share(trained.probability(world.fresh_plain)),
        ]

    old_paired, old_fresh, cross_fitted, travelling, wrong = mean_over_seeds(figures, 0.5)
    assert old_paired == pytest.approx(0.70, abs=0.08) and old_fresh == pytest.approx(0.93, abs=0.05)
    assert cross_fitted > 0.99 and travelling > 0.99 and wrong < 0.01


def test_an_effect_of_three_tenths_is_found_where_nothing_was_before():
    def figures(world):
        trained, seen = train(world.real, world.elsewhere)
        return [
            share(before(world.real, world.plain, world.fresh)),
            share(likeness(world.real, world.plain, world.samples)),
            share(trained.probability(world.samples)),
            share(trained.probability(world.fresh_plain)),
            seen.accuracy,
        ]

    old, cross_fitted, travelling, wrong, told = mean_over_seeds(figures, 0.3)
    assert old < 0.1 and cross_fitted > 0.93 and travelling > 0.93 and wrong < 0.1
    assert told == pytest.approx((travelling + 1 - wrong) / 2, abs=0.05), "cross-validation tells the truth"


def test_one_prompt_on_both_sides_is_kept_out_as_well():
    """With eight prompts a sample shares more than its pair with the others: the whole group is held out."""

    def figures(world):
        apart = likeness(world.real, world.plain, world.samples, world.groups)
        return [share(likeness(world.real, world.plain, world.samples)), share(apart)]

    pairs_only, whole_prompts = mean_over_seeds(figures, 0.3, prompts=8, count=64)
    assert whole_prompts > pairs_only + 0.2 and whole_prompts > 0.7


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_cross_validation_is_honest(shift):
    """What it says of pictures not seen is what happens to them, down to guessing."""

    def figures(world):
        found, seen = train(world.real, world.elsewhere)
        right = share(found.probability(world.fresh)) + 1 - share(found.probability(world.fresh_plain))
        return [seen.accuracy, right / 2]

    told, true = mean_over_seeds(figures, shift, real=20)
    assert told == pytest.approx(true, abs=0.06)
    assert shift or told == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("real", "right", "wrong"), [(1, 0.6, 0.1), (2, 0.85, 0.2), (3, 0.9, 0.12), (10, 0.97, 0.05)])
def test_few_real_pictures(real, right, wrong):
    def figures(world):
        found, _ = train(world.real, world.elsewhere)
        return [share(found.probability(world.fresh)), share(found.probability(world.fresh_plain))]

    seen, mistaken = mean_over_seeds(figures, 0.3, real=real, count=64)
    assert seen > right and mistaken < wrong


def test_a_single_real_picture_says_that_nothing_was_checked():
    world = World(0, 0.5, real=1)
    _, seen = train(world.real, world.elsewhere)
    assert seen.real != seen.real and 0.8 < seen.generated <= 1


def test_the_fit_is_the_minimum_that_its_equation_says():
    """Gradient of the loss at the fitted weights, by automatic differentiation, in the embeddings' own coordinates."""
    real, generated = draw(12, 30, seed=1) + 0.5, draw(40, 30, seed=2)
    found, _ = train(real, generated)
    both = torch.cat([real, generated]).double()
    x = (both - both.mean(0)) / both.std(0) / 30**0.5
    y = torch.cat([torch.ones(12), -torch.ones(40)]).double()
    share_of_class = torch.cat([torch.full((12,), 0.5 / 12), torch.full((40,), 0.5 / 40)]).double()
    w = (found.weight * 30**0.5).requires_grad_()

    def loss(w, b):
        return (share_of_class * F.softplus(-y * (x @ w + b))).sum() + 1e-2 * w.square().sum() / 2

    free = torch.zeros((), dtype=torch.float64, requires_grad=True)  # the threshold has moved the bias: find it again
    solver = torch.optim.LBFGS([free], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        value = loss(w.detach(), free)
        value.backward()
        return value

    solver.step(closure)
    (slope,) = torch.autograd.grad(loss(w, free.detach()), w)
    assert slope.abs().max() < 1e-6


def test_more_numbers_than_pictures_and_the_other_way_round_agree():
    """Columns of noise too small to matter change nothing but the route."""
    real, generated = draw(8, 5, seed=3) + 1, draw(20, 5, seed=4)
    copied = [x.repeat(1, 40) for x in (real, generated)]  # 200 numbers: each five columns say the same
    narrow, _ = train(real, generated)
    wide, _ = train(*copied)
    assert torch.allclose(narrow.logits(generated), wide.logits(copied[1]), atol=1e-8)


def test_embeddings_of_any_scale_and_with_constant_columns():
    real, generated = draw(20, 48, seed=5) + 0.8, draw(30, 48, seed=6)
    plain, _ = train(real, generated)
    scaled, _ = train(1000 * real - 3, 1000 * generated - 3)
    assert torch.allclose(plain.logits(real), scaled.logits(1000 * real - 3), atol=1e-3)
    wide = [torch.cat([x, torch.full((len(x), 4), 2.5)], 1) for x in (real, generated)]
    found, _ = train(*wide)
    off = wide[0] + torch.cat([torch.zeros(48), torch.ones(4)])
    assert torch.allclose(found.logits(off), found.logits(wide[0])), "a column that never varied has no say"


def test_embeddings_that_are_all_one_give_half():
    same = torch.full((6, 16), 3.0)
    found, _ = train(same[:2], same)
    assert found.probability(same).numpy() == pytest.approx(0.5)
    assert likeness(same[:2], same, same).numpy() == pytest.approx(0.5)


def test_two_generated_pictures_are_the_fewest():
    world = World(1, 0.5, count=2)
    found, _ = train(world.real, world.plain)
    assert found.probability(world.fresh).isfinite().all()
    assert likeness(world.real, world.plain, world.samples).isfinite().all()


def test_works_where_gradients_are_off_and_gives_the_same_twice():
    world = World(2, 0.5)
    with torch.inference_mode():
        once = likeness(world.real, world.plain, world.samples)
    assert torch.equal(once, likeness(world.real, world.plain, world.samples))
