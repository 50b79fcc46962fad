"""Small work on one thread, large work on all that the user allows, and nobody else's setting touched."""

from __future__ import annotations

import threading

import pytest
import torch
from lora_graft import adapters
from lora_graft.errors import AdapterError
from lora_graft.kernels import blas, threads
from lora_graft.kernels.spectral import ROUTES, subspace
from lora_graft.kernels.threads import all_threads, most, one_thread

count = torch.get_num_threads


@pytest.fixture(autouse=True)
def three():
    """The user's setting."""
    before = count()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_setting_comes_back_and_large_work_gets_it_meanwhile():
    with one_thread():
        assert (count(), most()) == (1, 3)
        with one_thread():
            assert (count(), most()) == (1, 3)
        with all_threads():
            assert (count(), most()) == (3, 3)
            with one_thread():
                assert (count(), most()) == (1, 3)
            assert count() == 3
        with all_threads(False):
            assert count() == 1
        assert count() == 1
    assert (count(), most()) == (3, 3)


def test_errors_restore_it_too():
    with pytest.raises(KeyError), one_thread(), all_threads():
        raise KeyError
    assert (count(), most()) == (3, 3)


def test_other_threads_keep_theirs(in_new_thread):
    begun, go, found = threading.Event(), threading.Event(), []

    def sample():
        found.append(count())
        begun.set()
        go.wait()
        found.append(count())

    other = threading.Thread(target=sample)
    other.start()
    begun.wait()
    with one_thread():
        assert in_new_thread(count) == 3
        with all_threads():
            assert in_new_thread(count) == 3
        assert in_new_thread(count) == 3
        go.set()
        other.join()
    assert found == [3, 3] and in_new_thread(count) == 3


def test_a_user_who_set_one_keeps_one():
    torch.set_num_threads(1)
    with one_thread(), all_threads():
        assert (count(), most()) == (1, 1)
    assert count() == 1


def test_decompositions_take_all_threads_where_the_weight_is_large(monkeypatch):
    seen = []
    exact = ROUTES["exact"]
    monkeypatch.setitem(ROUTES, "exact", lambda *what: seen.append(count()) or exact(*what))
    monkeypatch.setattr(threads, "LARGE", 4096)
    with one_thread():
        subspace(torch.randn(64, 64), 4, route="exact")
        subspace(torch.randn(64, 63), 4, route="exact")
    subspace(torch.randn(8, 8), 4, route="exact")
    assert seen == [3, 1, 1] and count() == 3


def test_adapters_are_read_and_written_on_one_thread(monkeypatch, tmp_path):
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    state = {f"{key}.lora_up.weight": torch.randn(8, 2), f"{key}.lora_down.weight": torch.randn(2, 8)}
    seen = []
    monkeypatch.setattr(adapters.files, "all_finite", lambda tensor: seen.append(count()) or True)
    adapter = adapters.from_state_dict(state)
    path = adapters.write(adapter, tmp_path / "a.safetensors")
    adapters.read(path)
    assert len(seen) >= 4 and set(seen) == {1} and count() == 3
    with pytest.raises(AdapterError):
        adapters.read(tmp_path / "none.safetensors")
    assert count() == 3


def test_scipys_own_threads_follow(monkeypatch):
    found = blas._blas()
    if found is None:
        pytest.skip("SciPy is not from a wheel")
    given = []
    monkeypatch.setattr(blas, "_blas", lambda: blas._Blas(4, given.append))
    with one_thread(), blas.as_torch():
        pass
    with blas.as_torch():
        pass
    torch.set_num_threads(4)
    with blas.as_torch():
        pass
    assert given == [1, 4, 3, 4] and found.number >= 1
