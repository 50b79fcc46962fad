"""Kernels compute in float32 whatever the process allows float32 products elsewhere."""

import pytest
import torch
from lora_graft.adapters import from_state_dict
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.kernels import precision, spectral
from lora_graft.kernels.precision import full_precision
from lora_graft.kernels.spectral import subspace

from .weights import weight_like


@pytest.fixture(params=["high", "medium"])
def loose(request):
    """A process that allows less."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def exact():
    """Whether products on a GPU are in float32 now."""
    switches = torch.backends.cuda.matmul
    return switches.fp32_precision == "ieee" if one_per_device() else not switches.allow_tf32


def one_per_device():
    """Whether this PyTorch (2.9 and later) has switches for each kind of device."""
    return torch.backends.cuda.matmul in precision._switches()


def test_inside_and_after(loose):
    assert not exact()
    with full_precision():
        assert exact()
        with full_precision():
            pass
        assert exact()
    assert not exact()
    assert torch.get_float32_matmul_precision() == loose


def test_an_error_gives_it_back(loose):
    with pytest.raises(ValueError, match="body"), full_precision():
        raise ValueError("body")
    assert torch.get_float32_matmul_precision() == loose


class Older:
    """A backend of PyTorch 2.1: it answers for a name it lacks with an error that is no AttributeError."""

    def __getattr__(self, name):
        raise AssertionError(f"Unknown attribute {name}")


def test_older_releases_have_one_switch(loose, monkeypatch):
    for backend in (torch.backends.cuda, torch.backends.mkldnn):
        monkeypatch.setattr(backend, "matmul", Older(), raising=False)
    set_to = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    with full_precision():
        assert set_to == ["highest"]
    assert set_to == ["highest", loose]


@pytest.mark.skipif(not one_per_device(), reason="PyTorch before 2.9")
def test_a_process_with_the_switches_of_one_device():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with full_precision():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_subspaces_are_the_same_bytes(loose):
    weight = weight_like(256, 320)
    found = subspace(weight, 16)
    torch.set_float32_matmul_precision("highest")
    right = subspace(weight, 16)
    assert all(torch.equal(a, b) for a, b in zip(found[:3], right[:3], strict=True))


def test_routes_and_merges_see_it(loose, monkeypatch):
    seen = []

    def look(*args):
        seen.append(exact())
        return spectral.exact(*args)

    monkeypatch.setitem(spectral.ROUTES, "gram", look)
    subspace(torch.randn(130, 140), 8, route="gram")
    key = "diffusion_model.input_blocks.4.1.proj_in"
    lora = from_state_dict({f"{key}.lora_up.weight": torch.randn(8, 2), f"{key}.lora_down.weight": torch.randn(2, 8)})
    merge([(lora, 1.0, 1.0)] * 2, MergeSettings(), progress=lambda *_: look(torch.eye(2), 1))
    assert len(seen) >= 2 and all(seen) and not exact()
    assert torch.get_float32_matmul_precision() == loose
