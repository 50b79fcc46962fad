import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.errors import SettingsError
from lora_graft.kernels import lowrank
from lora_graft.kernels.lowrank import LowRank

sizes = st.integers(1, 24)


def update(m, n, r, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(m, r, generator=generator), torch.randn(r, n, generator=generator))


@settings(max_examples=40, deadline=None)
@given(m=sizes, n=sizes, r=sizes, seed=st.integers(0, 99))
def test_inner_products_are_those_of_the_dense_matrices(m, n, r, seed):
    a, b = update(m, n, r, seed), update(m, n, 2, seed + 1)
    dense = float((a.dense().double() * b.dense().double()).sum())
    assert lowrank.inner(a, b) == pytest.approx(dense, rel=1e-4, abs=1e-3)
    assert lowrank.norm(a) == pytest.approx(float(a.dense().double().norm()), rel=1e-5)
    assert abs(lowrank.cosine(a, b)) <= 1 + 1e-9


@settings(max_examples=40, deadline=None)
@given(m=sizes, n=sizes, r=sizes, seed=st.integers(0, 99))
def test_recompress_without_limits_loses_only_rounding(m, n, r, seed):
    a = update(m, n, r, seed)
    small, error = lowrank.truncate(a)
    assert small.rank <= min(m, n, r)
    assert error < 1e-6
    assert torch.allclose(small.dense(), a.dense(), atol=2e-5 * float(a.dense().norm()))


@settings(max_examples=40, deadline=None)
@given(m=sizes, n=sizes, r=sizes, rank=st.integers(1, 8), seed=st.integers(0, 99))
def test_recompress_to_a_rank_is_the_best_approximation(m, n, r, rank, seed):
    a = update(m, n, r, seed)
    small, error = lowrank.truncate(a, rank)
    values = torch.linalg.svdvals(a.up.double() @ a.down.double())
    best = float(values[rank:].norm() / values.norm())
    assert small.rank <= rank
    assert error == pytest.approx(best, abs=1e-6)
    assert float((small.dense() - a.dense()).norm() / a.dense().norm()) == pytest.approx(best, abs=1e-5)
    # Balanced: the square root of each singular value on either side.
    assert torch.allclose(small.up.norm(dim=0), small.down.norm(dim=1), rtol=1e-4, atol=1e-6)


def test_recompress_to_a_tolerance_takes_the_smallest_rank():
    a = LowRank(torch.eye(6), torch.diag(torch.tensor([8.0, 4, 2, 1, 0.5, 0.25])))
    total = (64 + 16 + 4 + 1 + 0.25 + 0.0625) ** 0.5
    small, error = lowrank.truncate(a, tol=1.2 / total)
    assert small.rank == 3
    assert error == pytest.approx((1 + 0.25 + 0.0625) ** 0.5 / total, rel=1e-6)
    assert lowrank.truncate(a, rank=2, tol=0.01)[0].rank == 2


def test_recompress_finds_the_true_rank_of_a_sum():
    a = update(40, 30, 4)
    small, error = lowrank.truncate(lowrank.concatenate([a, a, lowrank.scale(a, -0.5)]))
    assert small.rank == 4
    assert error < 1e-7
    assert torch.allclose(small.dense(), 1.5 * a.dense(), atol=1e-4)


def test_a_zero_update_has_rank_one_and_no_error():
    small, error = lowrank.truncate(LowRank(torch.zeros(5, 3), torch.zeros(3, 4)))
    assert (small.rank, error) == (1, 0.0)
    assert not small.dense().any()
    small, error = lowrank.from_dense(torch.zeros(40, 50), 2)
    assert error == 0.0
    assert not small.dense().any()


@pytest.mark.parametrize("rank", [1, 5, 60])
def test_from_dense_equals_the_truncated_svd(rank):
    delta = torch.randn(90, 300, generator=torch.Generator().manual_seed(3))
    small, error = lowrank.from_dense(delta, rank)
    u, s, vt = torch.linalg.svd(delta.double(), full_matrices=False)
    assert small.rank == rank
    assert error == pytest.approx(float(s[rank:].norm() / s.norm()), abs=1e-6)
    assert torch.allclose(small.dense().double(), (u[:, :rank] * s[:rank]) @ vt[:rank], atol=1e-4)


def test_from_dense_is_exact_on_a_low_rank_matrix_wide_enough_for_the_fast_route():
    a = update(700, 600, 8)
    small, error = lowrank.from_dense(a.dense(), 8)
    assert error < 2e-6
    assert float((small.dense() - a.dense()).norm() / a.dense().norm()) < 2e-6
    small, error = lowrank.from_dense(a.dense(), tol=1e-5)
    assert small.rank == 8


def test_rows_and_stacks_are_slices_of_the_dense_matrix():
    a, b = update(6, 5, 2), update(4, 5, 3, 1)
    fused = lowrank.stack_rows([a, b])
    assert torch.allclose(fused.dense(), torch.cat([a.dense(), b.dense()]), atol=1e-6)
    assert torch.allclose(lowrank.take_rows(fused, 6, 4).dense(), b.dense(), atol=1e-6)


def test_rows_of_a_fused_weight():
    """Of an update as of its dense matrix, and of kernels and vectors alike."""
    a = update(8, 5, 3)
    for change in (
        lambda x: lowrank.take_rows(x, 2, 4),
        lambda x: lowrank.place_rows(x, 3, 12),
        lowrank.swap_halves,
        lambda x: lowrank.take_rows(lowrank.place_rows(x, 3, 12), 3, 8),
    ):
        assert torch.allclose(change(a).dense(), change(a.dense()), atol=1e-6)
        kernel = a.dense()[:, :, None, None]
        assert torch.equal(change(kernel).flatten(1), change(a.dense()))
    vector = torch.arange(4.0)
    assert lowrank.place_rows(vector, 1, 6).tolist() == [0, 0, 1, 2, 3, 0]
    assert lowrank.swap_halves(vector).tolist() == [2, 3, 0, 1]
    assert lowrank.place_rows(vector, 0, 4) is vector
    fused = lowrank.stack_rows([update(6, 3, 2), update(4, 3, 1)])
    assert lowrank.used_columns(lowrank.take_rows(fused, 0, 6).up).tolist() == [True, True, False]
    assert lowrank.used_columns(lowrank.take_rows(fused, 6, 4).up).tolist() == [False, False, True]


def test_senseless_limits_are_refused():
    with pytest.raises(SettingsError, match="rank"):
        lowrank.truncate(update(4, 4, 2), rank=0)
    with pytest.raises(SettingsError, match="tolerance"):
        lowrank.truncate(update(4, 4, 2), tol=float("nan"))
    with pytest.raises(SettingsError, match="rank"):
        lowrank.from_dense(torch.ones(4, 4), rank=0)
