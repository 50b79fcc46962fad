"""The identities of the transfer methods, against dense float64 formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_graft.errors import SettingsError
from lora_graft.kernels import lowrank
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.spectral import Subspace, subspace
from lora_graft.kernels.transfer import METHODS
from lora_graft.kernels.transfer.lora_x import in_subspace, in_subspace_share
from lora_graft.kernels.transfer.rotate import turn

from .weights import orthonormal, weight_like

SHAPES = [(96, 96), (80, 200), (200, 80)]


def update(shape, rank=4, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator))


def pair(shape, k=24, drift=0.2, seed=0):
    """Subspaces of a weight and of a relative of it."""
    weight = weight_like(*shape, seed=seed)
    other = (
        weight
        + drift
        * weight.norm()
        * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
        / (shape[0] * shape[1]) ** 0.5
    )
    return subspace(weight, k), subspace(other, k)


def distance(a: LowRank, b: LowRank) -> float:
    return float((a.dense().double() - b.dense().double()).norm() / b.dense().double().norm())


def projectors(s: Subspace):
    return (s.left @ s.left.T).double(), (s.right @ s.right.T).double()


def test_the_registry_names_every_method_and_its_paper():
    assert list(METHODS) == ["copy", "lora-x", "prolora", "rotate"]
    assert all(m.name == name and m.display and m.paper for name, m in METHODS.items())
    assert "2501.16559" in METHODS["lora-x"].paper and "2506.04244" in METHODS["prolora"].paper
    assert [m.needs_subspaces for m in METHODS.values()] == [False, True, True, True]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["copy", "rotate"])
def test_same_base_returns_the_update(shape, name):
    source, _ = pair(shape)
    u = update(shape)
    assert distance(METHODS[name].run(u, source, source), u) <= 1e-5
    # The same subspace in another basis is the same base, too.
    mix = orthonormal(source.k, source.k, dtype=torch.float32)
    turned = source._replace(left=source.left @ mix, right=source.right @ mix)
    assert distance(METHODS[name].run(u, source, turned), u) <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_lora_x_is_the_projection_of_the_paper(shape):
    source, target = pair(shape)
    u = update(shape)
    moved = METHODS["lora-x"].run(u, source, target)
    p, q = projectors(target)
    assert torch.allclose(moved.dense().double(), p @ u.dense().double() @ q, atol=1e-4)
    assert moved.rank == u.rank
    assert distance(METHODS["lora-x"].run(moved, source, target), moved) <= 1e-5  # idempotent
    # An ordinary update keeps only the share of its energy that chance puts inside.
    kept = (lowrank.norm(moved) / lowrank.norm(u)) ** 2
    assert kept == pytest.approx(target.k**2 / (shape[0] * shape[1]), rel=0.6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("full", [False, True])
def test_lora_x_is_exact_on_an_update_inside_the_subspace(shape, full):
    _, target = pair(shape)
    core = torch.randn((target.k, target.k) if full else (target.k,), generator=torch.Generator().manual_seed(1))
    inside = in_subspace(core, target)
    assert distance(METHODS["lora-x"].run(inside, target, target), inside) <= 1e-5
    assert in_subspace_share(inside, target) == pytest.approx(1, abs=1e-5)


def test_a_lora_x_adapter_moves_by_the_overlap_of_the_bases():
    """ΔΣ_t = (U_tᵀU_s) ΔΣ_s (V_sᵀV_t), never index by index."""
    source, target = pair((96, 120))
    core = torch.randn(source.k, generator=torch.Generator().manual_seed(1))
    moved = METHODS["lora-x"].run(in_subspace(core, source), source, target)
    there = (target.left.T @ source.left) @ torch.diag(core) @ (source.right.T @ target.right)
    assert torch.allclose(target.left.T @ moved.dense() @ target.right, there, atol=1e-5)


def test_the_share_inside_tells_the_two_kinds_of_adapter_apart():
    source, _ = pair((200, 160), k=40)
    assert in_subspace_share(update((200, 160)), source) == pytest.approx(0.2 * 0.25, abs=0.03)
    assert in_subspace_share(LowRank(torch.zeros(200, 2), torch.zeros(2, 160)), source) == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_prolora_keeps_the_two_diagonal_blocks_and_drops_the_cross_blocks(shape):
    source, target = pair(shape)
    u = update(shape)
    moved = METHODS["prolora"].run(u, source, target)
    (ps, qs), (pt, qt) = projectors(source), projectors(target)
    eye_m, eye_n = (torch.eye(n).double() for n in shape)
    w = u.dense().double()
    expected = pt @ ps @ w @ qs @ qt + (eye_m - pt) @ (eye_m - ps) @ w @ (eye_n - qs) @ (eye_n - qt)
    assert torch.allclose(moved.dense().double(), expected, atol=1e-4)
    assert moved.rank == 2 * u.rank
    # On the same base: exactly the update without its cross blocks.
    same = METHODS["prolora"].run(u, source, source).dense().double()
    cross = ps @ w @ (eye_n - qs) + (eye_m - ps) @ w @ qs
    assert torch.allclose(w - same, cross, atol=1e-4)
    assert cross.norm() / w.norm() > 0.3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("drift", [1e-3, 0.2, 1.0, 5.0])
def test_rotate_keeps_the_norm_and_the_rank(shape, drift):
    source, target = pair(shape, drift=drift)
    u = update(shape)
    moved = METHODS["rotate"].run(u, source, target)
    assert lowrank.norm(moved) == pytest.approx(lowrank.norm(u), rel=1e-4)
    assert moved.rank == u.rank


@pytest.mark.parametrize("drift", [0.01, 0.3, 2.0])
def test_rotate_carries_one_subspace_onto_the_other(drift):
    source, target = pair((120, 90), drift=drift)
    inside = in_subspace(torch.randn(source.k, generator=torch.Generator().manual_seed(2)), source)
    moved = METHODS["rotate"].run(inside, source, target)
    assert in_subspace_share(moved, target) == pytest.approx(1, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 30), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_turn_is_the_direct_rotation(d, share, seed):
    """Orthogonal, and of all rotations with R span(start) = span(end) the one whose square is (2Q - I)(2P - I)."""
    k = max(1, int(share * d))
    start, end = orthonormal(d, k, seed), orthonormal(d, k, seed + 1)
    eye = torch.eye(d, dtype=torch.float64)
    rotation = turn(eye, start, end)
    assert torch.allclose(rotation.T @ rotation, eye, atol=1e-9)
    p, q = start @ start.T, end @ end.T
    assert torch.allclose(rotation @ p @ rotation.T, q, atol=1e-8)
    if 2 * k <= d or k == d:
        assert torch.allclose(rotation @ rotation, (2 * q - eye) @ (2 * p - eye), atol=1e-7)


def test_rotate_is_continuous_in_the_target():
    weight = weight_like(100, 80)
    step = torch.randn(100, 80, generator=torch.Generator().manual_seed(9)) / 80**0.5 / 10
    u = update((100, 80))
    source, here = subspace(weight, 5), subspace(weight + 0.3 * step, 5)
    base = METHODS["rotate"].run(u, source, here)
    changes = [
        distance(METHODS["rotate"].run(u, source, subspace(weight + (0.3 + h) * step, 5)), base)
        for h in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    assert changes[0] < 1
    for larger, smaller in zip(changes, changes[1:], strict=False):
        assert smaller < 0.3 * larger + 1e-6  # linear in the step, about a tenth each time


def test_rotate_does_not_depend_on_the_basis_chosen_for_a_subspace():
    source, target = pair((100, 80), drift=0.5)
    u = update((100, 80))
    mix = orthonormal(target.k, target.k, dtype=torch.float32)
    other = target._replace(left=target.left @ mix, right=target.right @ mix.flip(1))
    assert distance(METHODS["rotate"].run(u, source, other), METHODS["rotate"].run(u, source, target)) <= 1e-4


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-4, math.pi / 2 - 1e-9, math.pi / 2])
def test_rotate_at_the_ends_of_the_range_of_angles(angle):
    basis = orthonormal(12, 6)
    start = basis[:, :3]
    end = math.cos(angle) * start + math.sin(angle) * basis[:, 3:]
    x = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = turn(x, start, end)
    assert torch.isfinite(turned).all()
    assert float(turned.norm()) == pytest.approx(float(x.norm()), rel=1e-9)
    assert float((turned - x).norm()) <= 1.01 * 2 * math.sin(angle / 2) * float(x.norm()) + 1e-7
    carried = turn(start, start, end)
    assert torch.allclose(end @ (end.T @ carried), carried, atol=1e-7)


def test_a_right_angle_among_small_ones():
    basis = orthonormal(10, 10)
    start, end = basis[:, :3], torch.cat([basis[:, :2], basis[:, 5:6]], 1)
    turned = turn(basis, start, end)
    assert torch.allclose(turned.T @ turned, torch.eye(10).double(), atol=1e-9)
    assert torch.allclose(turned[:, :2], basis[:, :2], atol=1e-9)
    assert torch.allclose((turned[:, 2] @ basis[:, 5]).abs(), torch.tensor(1.0).double())


def test_other_sizes_copy_the_coordinates():
    source, target = subspace(weight_like(60, 40), 10), subspace(weight_like(90, 70, 1), 12)
    u = update((60, 40))
    moved = METHODS["lora-x"].run(u, source, target)
    assert moved.shape == (90, 70) and moved.rank == u.rank
    coordinates = source.left.T @ u.dense() @ source.right
    assert torch.allclose(target.left[:, :10].T @ moved.dense() @ target.right[:, :10], coordinates, atol=1e-4)
    assert in_subspace_share(moved, target) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["copy", "prolora", "rotate"])
def test_other_sizes_are_refused_by_the_other_methods(name):
    source, target = subspace(weight_like(60, 40), 10), subspace(weight_like(90, 70, 1), 12)
    with pytest.raises(SettingsError, match="shape"):
        METHODS[name].run(update((60, 40)), source, target)


def test_half_precision_updates_come_back_in_their_dtype():
    source, target = pair((96, 96))
    u = update((96, 96))
    half = LowRank(u.up.bfloat16(), u.down.bfloat16())
    assert METHODS["rotate"].run(half, source, target).up.dtype == torch.bfloat16
