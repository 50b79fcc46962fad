"""The thin branch answers as the dense changed layer does."""

import pytest
import torch
import torch.nn.functional as F
from lora_graft.kernels.distill.branch import apply, changed
from lora_graft.kernels.distill.students import STUDENTS, Change

CONVS = [
    {"stride": 1, "padding": 1, "dilation": 1, "groups": 1},
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": 2, "groups": 1},
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 2},
    {"stride": 1, "padding": "same", "dilation": 1, "groups": 4},
]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def change_of(m, n, rank=3, gain=False, dtype=torch.float64):
    return Change(
        draw(m, rank, seed=1, dtype=dtype),
        draw(rank, n, seed=2, dtype=dtype),
        1 + 0.3 * draw(m, seed=3, dtype=dtype) if gain else None,
    )


def dense(weight, change):
    rows = weight.flatten(1) + change.up @ change.down
    return (rows if change.gain is None else change.gain[:, None] * rows).reshape(weight.shape)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize("tokens", [(5,), (2, 7), (2, 3, 4)])
def test_linear(tokens, gain, with_bias):
    weight, bias = draw(12, 8), draw(12, seed=4) if with_bias else None
    x, change = draw(*tokens, 8, seed=5), change_of(12, 8, gain=gain)
    assert torch.allclose(apply(x, "linear", change, weight_shape=(12, 8)), x @ (change.up @ change.down).T)
    found = changed(F.linear(x, weight, bias), x, change, bias, layer_kind="linear", weight_shape=(12, 8))
    assert torch.allclose(found, F.linear(x, dense(weight, change), bias))


def test_linear_layer_with_a_kernel_shaped_weight():
    x, change = draw(2, 5, 8, seed=5), change_of(12, 8, gain=True)
    weight, bias = draw(12, 8), draw(12, seed=4)
    found = changed(F.linear(x, weight, bias), x, change, bias, layer_kind="linear", weight_shape=(12, 8, 1, 1))
    assert torch.allclose(found, F.linear(x, dense(weight, change), bias))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_conv(options, gain, with_bias):
    shape = (12, 8 // options["groups"], 3, 3)
    weight, bias = draw(*shape), draw(12, seed=4) if with_bias else None
    x, change = draw(2, 8, 9, 10, seed=5), change_of(12, weight[0].numel(), gain=gain)
    delta = (change.up @ change.down).reshape(shape)
    assert torch.allclose(apply(x, "conv2d", change, weight_shape=shape, **options), F.conv2d(x, delta, **options))
    output = F.conv2d(x, weight, bias, **options)
    found = changed(output, x, change, bias, layer_kind="conv2d", weight_shape=shape, **options)
    assert torch.allclose(found, F.conv2d(x, dense(weight, change), bias, **options))


@pytest.mark.parametrize(("kind", "convolve", "size"), [("conv1d", F.conv1d, (9,)), ("conv3d", F.conv3d, (4, 5, 6))])
def test_other_convolutions(kind, convolve, size):
    shape = (6, 4, *[3] * len(size))
    x, change = draw(2, 4, *size, seed=5), change_of(6, draw(*shape)[0].numel(), gain=True)
    weight, bias = draw(*shape), draw(6, seed=4)
    found = changed(
        convolve(x, weight, bias, padding=1), x, change, bias, layer_kind=kind, weight_shape=shape, padding=1
    )
    assert torch.allclose(found, convolve(x, dense(weight, change), bias, padding=1))


@pytest.mark.parametrize("kind", list(STUDENTS))
def test_a_new_student_leaves_the_output_as_it_is(kind):
    weight, bias, x = draw(12, 8).float(), draw(12, seed=4).float(), draw(5, 8, seed=5).float()
    student = STUDENTS[kind].create((12, 8), 2, 1.0, torch.Generator().manual_seed(0), weight=weight)
    output = F.linear(x, weight, bias)
    assert torch.equal(changed(output, x, student.change(), bias, layer_kind="linear", weight_shape=(12, 8)), output)


def test_gradients_reach_float32_factors_through_bfloat16():
    factors = [t.float().requires_grad_() for t in change_of(12, 8, gain=True)]
    x, output = draw(5, 8, dtype=torch.bfloat16), draw(5, 12, dtype=torch.bfloat16)
    found = changed(output, x, Change(*factors), layer_kind="linear", weight_shape=(12, 8))
    found.float().square().sum().backward()
    assert found.dtype == torch.bfloat16
    assert all(f.grad.dtype == torch.float32 and bool(f.grad.any()) for f in factors)
