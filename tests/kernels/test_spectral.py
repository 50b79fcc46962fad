"""Every route against a float64 SVD."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.errors import BaseModelError, SettingsError
from lora_graft.kernels import gram, lanczos, spectral
from lora_graft.kernels.similarity import phi
from lora_graft.kernels.spectral import ROUTES, SubspaceSize, subspace

from .weights import weight_like, with_spectrum


def reference(weight, k):
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    return u[:, :k], s[:k], vt[:k].T


def lost(basis, truth):
    """How many of the k directions are missing."""
    return truth.shape[1] - float((basis.double().T @ truth).square().sum())


def assert_valid(found, weight, tolerance=1e-4):
    """Orthonormal triplets that satisfy W v = σ u."""
    eye = torch.eye(found.k)
    assert torch.isfinite(found.left).all() and torch.isfinite(found.right).all()
    assert torch.allclose(found.left.T @ found.left, eye, atol=1e-4)
    assert torch.allclose(found.right.T @ found.right, eye, atol=1e-4)
    top = max(float(found.values[0]), 1e-30)
    assert float((weight.flatten(1) @ found.right - found.left * found.values).abs().max()) <= tolerance * top
    assert bool((found.values.diff() <= 1e-4 * top).all())


@pytest.mark.parametrize("shape", [(400, 400), (400, 900), (900, 400)])
@pytest.mark.parametrize("decay, noise", [(0.7, 1.0), (0.5, 0.3), (1.0, 1.0)])
@pytest.mark.parametrize("route, k", [("exact", 40), ("gram", 100), ("gram", 40), ("lanczos", 40), ("lanczos", 8)])
def test_routes_find_the_subspace(shape, decay, noise, route, k):
    weight = weight_like(*shape, seed=1, decay=decay, noise=noise)
    found = ROUTES[route](weight, k)
    assert found is not None
    u, s, v = reference(weight, k)
    limit = gram.LOSS * k if route == "lanczos" else 1e-4
    assert lost(found.left, u) < limit
    assert lost(found.right, v) < limit
    assert torch.allclose(found.values.double(), s, rtol=1e-3 if route == "lanczos" else 1e-5)
    assert_valid(subspace(weight, k, route=route), weight, 1e-3 if route == "lanczos" else 1e-5)


@pytest.mark.parametrize("route", ["gram", "lanczos"])
def test_similarity_is_right_to_a_thousandth(route):
    a, k = weight_like(640, 640, seed=2), 64
    b = a + 0.3 * a.norm() * weight_like(640, 640, seed=3) / 2**0.5
    exact = [phi(reference(a, k)[i], reference(b, k)[i]) for i in (0, 2)]
    fast = [phi(*(getattr(subspace(w, k, route=route), side) for w in (a, b))) for side in ("left", "right")]
    assert 0.3 < exact[0] < 0.95
    assert fast == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("route", list(ROUTES))
@pytest.mark.parametrize(
    "weight, k",
    [
        pytest.param(torch.zeros(200, 300), 20, id="zeros"),
        pytest.param(with_spectrum(300, 260, torch.ones(10)), 40, id="rank below k"),
        pytest.param(with_spectrum(300, 260, torch.linspace(1, 0.5, 40)), 40, id="rank equals k"),
        pytest.param(with_spectrum(300, 260, torch.ones(260)), 30, id="all singular values equal"),
        pytest.param(with_spectrum(300, 260, torch.tensor([2.0] * 20 + [1.0] * 240)), 20, id="two clusters"),
        pytest.param(with_spectrum(300, 260, torch.logspace(0, -7, 260)), 60, id="steep"),
        pytest.param(1e-20 * weight_like(300, 260), 30, id="tiny"),
        pytest.param(1e15 * weight_like(300, 260), 30, id="huge"),
        pytest.param(weight_like(150, 400), 150, id="k = min(m, n)"),
        pytest.param(torch.randn(1, 300, generator=torch.Generator().manual_seed(0)), 1, id="one row"),
        pytest.param(torch.randn(300, 1, generator=torch.Generator().manual_seed(0)), 1, id="one column"),
        pytest.param(torch.tensor([[3.0]]), 1, id="one number"),
        pytest.param(torch.eye(300).roll(7, 0), 16, id="permutation"),
    ],
)
def test_nasty_matrices_give_valid_triplets(weight, k, route):
    found = subspace(weight, k, route=route)
    assert found.k == k
    assert_valid(found, weight, 1e-3)
    values = torch.linalg.svdvals(weight.double())
    assert torch.allclose(found.values.double(), values[:k], atol=2e-4 * float(values[0]) + 1e-30)
    total = float(values.square().sum())
    assert found.energy == pytest.approx(float(values[:k].square().sum()) / total if total else 1.0, abs=1e-3)


@pytest.mark.parametrize("route", ["gram", "lanczos"])
def test_a_steep_spectrum_keeps_its_small_end(route):
    weight = with_spectrum(400, 320, torch.logspace(0, -5, 320))
    k = 160 if route == "gram" else 40
    found = subspace(weight, k, route=route)
    u, _, v = reference(weight, k)
    assert lost(found.left, u) < gram.LOSS * k
    assert lost(found.right, v) < gram.LOSS * k


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 60), n=st.integers(1, 60), k=st.integers(1, 70), seed=st.integers(0, 99))
def test_any_small_shape(m, n, k, seed):
    weight = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    found = subspace(weight, k)
    assert found.k == min(k, m, n)
    assert found.shape == (m, n)
    assert_valid(found, weight)


def test_the_test_rejects_a_wrong_subspace():
    weight, k = weight_like(400, 400), 40
    u, s, vt = torch.linalg.svd(weight)
    right = gram.Triplets(u[:, :k], s[:k], vt[:k].T)
    assert gram.trusted(weight, right)
    # The last wanted pair mixed with the first unwanted one.
    mixed = torch.cat([vt[: k - 1], ((vt[k - 1] + vt[k]) / 2**0.5)[None]]).T
    assert not gram.trusted(weight, gram.finish(weight.T, mixed, k)._replace())
    # One pair in the middle bent by a random direction.
    bent = vt[:k].T + 0.3 * torch.randn(400, k, generator=torch.Generator().manual_seed(0)) / 20
    assert not gram.trusted(weight, gram.finish(weight.T, torch.linalg.qr(bent)[0], k))
    # Wrong scale, skewed columns, NaN.
    assert not gram.trusted(weight, right._replace(values=1.1 * s[:k]))
    assert not gram.trusted(weight, right._replace(left=1.01 * u[:, :k]))
    assert not gram.trusted(weight, right._replace(values=s[:k] * float("nan")))


def test_a_power_iteration_of_the_kind_this_project_avoids_is_rejected():
    weight, k = weight_like(500, 500), 60
    torch.manual_seed(0)
    u, s, v = torch.svd_lowrank(weight, k, niter=2)
    assert not gram.trusted(weight, gram.Triplets(u, s, v))


def test_a_route_that_fails_hands_over(monkeypatch):
    weight = weight_like(300, 300)
    calls = []
    monkeypatch.setitem(ROUTES, "lanczos", lambda *a: calls.append("lanczos"))
    monkeypatch.setitem(ROUTES, "gram", lambda *a: calls.append("gram"))
    found = subspace(weight, 10, route="lanczos")
    assert calls == ["lanczos", "gram"]
    assert lost(found.left, reference(weight, 10)[0]) < 1e-5


def test_without_scipy_the_result_is_the_same(monkeypatch):
    weight = weight_like(300, 500)
    partial = [subspace(weight, 30, route=route) for route in ("gram", "lanczos")]
    monkeypatch.setattr(gram, "_partial_eigh", None)
    full = [subspace(weight, 30, route=route) for route in ("gram", "lanczos")]
    for a, b in zip(partial, full, strict=True):
        assert phi(a.left, b.left) == pytest.approx(1, abs=1e-5)
        assert torch.allclose(a.values, b.values, rtol=1e-5)


@pytest.mark.parametrize("route", list(ROUTES))
def test_results_repeat_bit_by_bit(route):
    weight = weight_like(300, 420)
    torch.manual_seed(1)
    first = subspace(weight, 24, route=route)
    torch.manual_seed(2)
    second = subspace(weight, 24, route=route)
    assert torch.equal(first.left, second.left) and torch.equal(first.right, second.right)


def test_the_weight_is_left_alone_and_convolutions_are_flattened():
    weight = weight_like(200, 270).reshape(200, 30, 3, 3)
    before = weight.clone()
    found = subspace(weight.half(), 16)
    assert found.shape == (200, 270)
    assert torch.equal(weight, before)
    assert found.left.dtype == torch.float32


def test_auto_chooses_by_shape_and_k():
    assert spectral.choose((64, 4000), 16) == "exact"
    assert spectral.choose((1280, 1280), 1000) == "exact"
    assert spectral.choose((1280, 1280), 320) == "gram"
    assert spectral.choose((1280, 1280), 16) == "lanczos"
    assert spectral.choose((3072, 3072), 128) == "lanczos"
    assert spectral.choose((3072, 12288), 768) == "gram"


def test_lanczos_gives_up_where_it_cannot_work():
    assert lanczos.lanczos(weight_like(200, 200), 90) is None  # no room for a basis
    assert lanczos.lanczos(with_spectrum(400, 400, torch.ones(12)), 20) is None  # rank below the basis


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_refused(bad):
    weight = weight_like(200, 200)
    weight[17, 3] = bad
    with pytest.raises(BaseModelError, match="NaN or Inf"):
        subspace(weight, 8)
    with pytest.raises(BaseModelError, match="NaN or Inf"):
        spectral.spectrum(weight)


def test_senseless_requests_are_refused():
    with pytest.raises(SettingsError, match="k must"):
        subspace(torch.ones(3, 3), 0)
    with pytest.raises(SettingsError, match="unknown spectral route"):
        subspace(torch.ones(3, 3), 1, route="power")


class TestSize:
    def test_default_is_a_quarter(self):
        assert SubspaceSize().resolve((1280, 640)) == 160
        assert str(SubspaceSize()) == "share=0.25"

    def test_k_is_cut_to_the_matrix(self):
        assert SubspaceSize(k=320).resolve((1280, 320, 3, 3)) == 320
        assert SubspaceSize(k=320).resolve((64, 4096)) == 64
        assert SubspaceSize(k=3).resolve((4,)) == 1  # a vector is one column

    def test_share_rounds_and_never_vanishes(self):
        assert SubspaceSize(share=0.5).resolve((10, 30)) == 5
        assert SubspaceSize(share=0.01).resolve((10, 30)) == 1
        assert SubspaceSize(share=1).resolve((10, 30)) == 10

    def test_energy_takes_the_smallest_sufficient_k(self):
        values = torch.tensor([3.0, 2.0, 1.0, 0.5])  # powers 9, 4, 1, .25
        size = SubspaceSize(energy=13 / 14.25)
        assert size.needs_spectrum
        assert size.resolve((4, 4), values) == 2
        assert SubspaceSize(energy=0.95).resolve((4, 4), values) == 3
        assert SubspaceSize(energy=1).resolve((4, 4), values) == 4
        assert SubspaceSize(energy=0.5).resolve((4, 4), torch.zeros(4)) == 1
        with pytest.raises(SettingsError, match="spectrum"):
            size.resolve((4, 4))

    def test_energy_agrees_with_the_subspace(self):
        weight = weight_like(200, 300)
        k = SubspaceSize(energy=0.8).resolve(weight.shape, spectral.spectrum(weight))
        assert subspace(weight, k).energy >= 0.8 - 1e-6
        assert subspace(weight, k - 1).energy < 0.8

    @pytest.mark.parametrize(
        "bad", [{"k": 0}, {"share": 0}, {"share": 1.1}, {"energy": float("nan")}, {"k": 1, "share": 1}]
    )
    def test_senseless_sizes_are_refused(self, bad):
        with pytest.raises(SettingsError):
            SubspaceSize(**bad)


def test_the_spectrum_is_that_of_the_svd():
    weight = weight_like(130, 210)
    assert torch.allclose(spectral.spectrum(weight), torch.linalg.svdvals(weight.double()), rtol=1e-7)
