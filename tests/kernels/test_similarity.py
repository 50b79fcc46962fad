import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.kernels.similarity import chance, corrected, phi

from .weights import orthonormal


@settings(max_examples=30, deadline=None)
@given(d=st.integers(2, 40), share=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_a_subspace_is_wholly_similar_to_itself_in_any_basis(d, share, seed):
    k = max(1, int(share * d))
    a = orthonormal(d, k, seed)
    other = a @ orthonormal(k, k, seed + 1)
    assert phi(a, other) == pytest.approx(1, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(d=st.integers(4, 40), seed=st.integers(0, 99))
def test_phi_is_the_mean_squared_cosine_and_symmetric(d, seed):
    k = d // 2
    a, b = orthonormal(d, k, seed), orthonormal(d, k, seed + 1)
    assert phi(a, b) == pytest.approx(float(torch.linalg.svdvals(a.T @ b).square().mean()), abs=1e-9)
    assert phi(a, b) == pytest.approx(phi(b, a), abs=1e-12)


def test_orthogonal_subspaces():
    basis = orthonormal(10, 6)
    assert phi(basis[:, :3], basis[:, 3:]) == pytest.approx(0, abs=1e-12)


def test_a_contained_subspace_counts_as_similar():
    basis = orthonormal(20, 8)
    assert phi(basis[:, :3], basis) == pytest.approx(1)


def test_random_subspaces_lie_at_chance_level():
    d, k = 200, 50
    values = [phi(orthonormal(d, k, 2 * s), orthonormal(d, k, 2 * s + 1)) for s in range(20)]
    mean = sum(values) / len(values)
    assert mean == pytest.approx(chance(k, d), abs=0.01)
    assert corrected(mean, chance(k, d)) == pytest.approx(0, abs=0.02)


def test_the_correction_at_its_ends():
    assert corrected(1.0, 0.25) == 1
    assert corrected(0.25, 0.25) == 0
    assert corrected(1.0, 1.0) == 0  # full rank says nothing


def test_subspaces_of_different_spaces_are_refused():
    with pytest.raises(ValueError, match="different spaces"):
        phi(orthonormal(5, 2), orthonormal(6, 2))
