"""Students: gradients, starts, and that the file says what the student means."""

import pytest
import torch
from lora_graft import adapters
from lora_graft.adapters.lora import Lora as LoraFile
from lora_graft.errors import SettingsError
from lora_graft.kernels.distill.students import STUDENTS
from lora_graft.kernels.distill.students.lokr import split
from lora_graft.kernels.lowrank import LowRank, norm
from lora_graft.kernels.spectral import subspace

SHAPES = [(12, 8), (8, 12), (12, 8, 3, 3)]
KINDS = list(STUDENTS)


def weight_of(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(kind, shape, rank=2, alpha=1.0, seed=0, **options):
    options.setdefault("weight", weight_of(shape) if STUDENTS[kind].needs_base else None)
    return STUDENTS[kind].create(shape, rank, alpha, torch.Generator().manual_seed(seed), **options)


def update_of(shape, rank, seed=5):
    generator = torch.Generator().manual_seed(seed)
    m, n = shape[0], torch.Size(shape[1:]).numel()
    return LowRank(torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator))


def shaken(student, seed=9):
    """The student with every parameter moved, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.params.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return student


def new_weight(student, weight):
    """gain ∘ (W + up @ down), flattened, in the weight's dtype."""
    up, down, *gain = (t.to(weight.dtype) for t in student.change() if t is not None)
    rows = weight.flatten(1) + up @ down
    return gain[0][:, None] * rows if gain else rows


def module_of(student):
    tensors = {"x" + suffix: tensor for suffix, tensor in student.tensors().items()}
    assert all(t.dtype == torch.float32 and t.device.type == "cpu" and not t.requires_grad for t in tensors.values())
    adapter = adapters.from_state_dict(tensors)
    assert not adapter.extras
    return adapter.modules["x"]


def distance(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_finite_differences(kind, shape):
    student = shaken(make(kind, shape, dtype=torch.float64))
    names = list(student.params)
    weight = weight_of(shape).double()

    def result(*values):
        student.params = dict(zip(names, values, strict=True))
        return new_weight(student, weight)

    assert torch.autograd.gradcheck(result, tuple(student.params.values()))


@pytest.mark.parametrize("rank", [2, 7])  # of lokr's second factor: factored, full
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_means_what_the_student_does(kind, shape, rank):
    student, weight = shaken(make(kind, shape, rank, alpha=3.0)), weight_of(shape)
    expected = (new_weight(student, weight.double()) - weight.flatten(1)).detach()
    delta = module_of(student).delta(weight)
    assert delta.shape == weight.shape
    assert distance(delta.flatten(1), expected) < 2e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_starts_at_zero_with_gradients(kind, shape):
    student, weight = make(kind, shape), weight_of(shape)
    assert torch.equal(new_weight(student, weight), weight.flatten(1))
    assert student.warm_start_error == 0
    assert not module_of(student).delta(weight).any()
    (new_weight(student, weight) * weight_of(shape, 2).flatten(1)).sum().backward()
    assert any(bool(p.grad.any()) for p in student.params.values())


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_down_the_gradient_lowers_the_loss_and_wakes_every_parameter(kind):
    shape = (12, 8)
    student, weight = make(kind, shape), weight_of(shape)
    target = weight + 0.1 * update_of(shape, 2).dense()
    optimiser = torch.optim.SGD(student.params.values(), lr=1e-2)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = (new_weight(student, weight) - target).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert all(bool(p.grad.any()) for p in student.params.values())


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["lora", "loha", "dora"])
def test_a_start_of_lower_rank_is_met_exactly_and_all_parameters_learn(kind, shape, alpha):
    start, weight = update_of(shape, 2), weight_of(shape)
    student = make(kind, shape, 3, alpha, warm_start=start)
    assert student.warm_start_error < 1e-6
    assert distance(new_weight(student, weight) - weight.flatten(1), start.dense()) < 1e-5
    (new_weight(student, weight) * weight_of(shape, 2).flatten(1)).sum().backward()
    assert all(bool(p.grad.any()) for p in student.params.values())


@pytest.mark.parametrize("kind", ["lora", "loha", "dora"])
def test_a_start_of_higher_rank_is_cut_at_its_best(kind):
    start = update_of((12, 8), 6)
    student = make(kind, (12, 8), 2, 1.0, warm_start=start)
    values = torch.linalg.svdvals(start.dense())
    assert student.warm_start_error == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-5)
    change = student.change()
    assert distance(change.up @ change.down, start.dense()) == pytest.approx(student.warm_start_error, rel=1e-4)


def test_lora_starts_with_balanced_factors():
    student = make("lora", (12, 8), 2, 0.5, warm_start=update_of((12, 8), 2))
    up, down = student.params["lora_up"], student.params["lora_down"]
    assert torch.allclose(up.norm(dim=0), down.norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["lora-x", "lora-x-diagonal"])
def test_lora_x_starts_from_the_projection(kind, shape):
    weight, start = weight_of(shape), update_of(shape, 3)
    base = subspace(weight, 4)
    core = base.left.T @ start.dense() @ base.right
    core = torch.diag(core.diagonal()) if kind.endswith("diagonal") else core
    student = make(kind, shape, 4, 2.0, warm_start=start, weight=weight)
    change = student.change()
    expected = base.left @ core @ base.right.T
    assert distance(change.up @ change.down, expected) < 1e-5
    assert student.warm_start_error == pytest.approx(distance(expected, start.dense()), rel=1e-4)
    inside = LowRank(base.left @ core, base.right.T)
    again = make(kind, shape, 4, 2.0, warm_start=inside, weight=weight)
    assert again.warm_start_error < 1e-5
    assert torch.allclose(again.params["core"], student.params["core"], atol=1e-5 * norm(start))


@pytest.mark.parametrize("kind", ["lora-x", "lora-x-diagonal"])
def test_lora_x_stays_in_the_subspace_while_it_learns(kind):
    weight = weight_of((12, 8))
    change = shaken(make(kind, (12, 8), 4, weight=weight)).change()
    base, delta = subspace(weight, 4), (change.up @ change.down).detach()
    assert distance(base.left @ (base.left.T @ delta @ base.right) @ base.right.T, delta) < 1e-5


@pytest.mark.parametrize("rank", [1, 7])
@pytest.mark.parametrize("shape", SHAPES + [(24, 16)], ids=str)
def test_lokr_starts_from_a_kronecker_product_exactly(shape, rank):
    (a, c), (b, d) = split(shape[0]), split(shape[1])
    second = update_of((c, d, *shape[2:]), 1, seed=4).dense()
    product = torch.kron(weight_of((a, b)), second)
    student = make("lokr", shape, rank, warm_start=LowRank(product, torch.eye(product.shape[1])))
    change = student.change()
    assert student.warm_start_error < 1e-5
    assert distance(change.up @ change.down, product) < 1e-5


def test_lokr_starts_from_the_nearest_kronecker_product():
    """No other product is nearer: compared with alternating least squares from random starts."""
    start = update_of((12, 8), 3)
    found = make("lokr", (12, 8), 100, warm_start=start).warm_start_error
    (a, c), (b, d) = split(12), split(8)
    blocks = start.dense().reshape(a, c, b, d).permute(0, 2, 1, 3).reshape(a * b, c * d)
    values = torch.linalg.svdvals(blocks)
    assert found == pytest.approx(float(values[1:].norm() / values.norm()), rel=1e-4)
    for seed in range(3):
        w2 = weight_of((c * d,), seed)
        for _ in range(50):
            w1 = blocks @ w2 / w2.square().sum()
            w2 = blocks.T @ w1 / w1.square().sum()
        assert found <= float((blocks - torch.outer(w1, w2)).norm() / blocks.norm()) + 1e-5


def test_lokr_splits_sides_as_lycoris_does():
    factorization = pytest.importorskip("lycoris.functional.general").factorization
    assert all(split(n) == tuple(factorization(n, 8)) for n in [*range(1, 400), 640, 768, 1280, 2048, 3072, 10240])


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes(kind):
    one, same, other = (make(kind, (12, 8, 3, 3), seed=seed).tensors() for seed in (3, 3, 4))
    assert all(torch.equal(one[suffix], same[suffix]) for suffix in one)
    drawn = kind in ("lora", "loha", "lokr", "dora")
    assert drawn == any(not torch.equal(one[suffix], other[suffix]) for suffix in one)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_tensors_are_a_snapshot(kind):
    student = make(kind, (12, 8))
    before = student.tensors()
    copies = {suffix: tensor.clone() for suffix, tensor in before.items()}
    shaken(student)
    assert all(torch.equal(before[suffix], copies[suffix]) for suffix in before)


def test_kernels_have_their_files_shape():
    shapes = {s: tuple(t.shape) for s, t in make("dora", (12, 8, 3, 3)).tensors().items()}
    assert shapes == {
        ".lora_up.weight": (12, 2, 1, 1),
        ".lora_down.weight": (2, 8, 3, 3),
        ".alpha": (),
        ".dora_scale": (12, 1, 1, 1),
    }
    assert isinstance(module_of(make("lora-x", (12, 8, 3, 3))), LoraFile)


def test_a_rank_beyond_the_weights_own_keeps_the_scale():
    student = make("lora", (12, 3), rank=6, alpha=3.0)
    assert student.params["lora_down"].shape == (3, 3)
    assert student.scale == module_of(student).scale() == 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"warm_start": update_of((8, 12), 2)}, "start from"),
        ({"weight": weight_of((8, 12))}, "base weight is"),
        ({"shape": (12,)}, "not a weight of shape"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(SettingsError, match=says):
        make("lora", **{"shape": (12, 8), **options})


@pytest.mark.parametrize("kind", [k for k in KINDS if STUDENTS[k].needs_base])
def test_base_weight_is_asked_for(kind):
    with pytest.raises(SettingsError, match="base weight"):
        make(kind, (12, 8), weight=None)
