"""Pieces of work on several threads: in order, no further ahead than allowed, stopped when nobody waits any more."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
import torch
from lora_graft.jobs import workers
from lora_graft.jobs.workers import in_order


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_pieces(threads):
    def work(piece):
        time.sleep(0.002 * (piece % 3))
        return piece * piece

    assert list(in_order(work, range(20))) == [piece * piece for piece in range(20)]
    assert list(in_order(work, [])) == []


def test_a_worker_uses_one_thread_and_the_setting_stays(threads, in_new_thread):
    assert set(in_order(lambda piece: torch.get_num_threads(), range(9))) == {1}
    assert torch.get_num_threads() == threads
    assert in_new_thread(torch.get_num_threads) == threads


@pytest.mark.parametrize(("inference", "gradients"), [(True, False), (False, True), (False, False)])
def test_workers_are_in_the_callers_mode(threads, inference, gradients):
    with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
        found = list(in_order(lambda piece: (torch.is_inference_mode_enabled(), torch.is_grad_enabled()), range(4)))
    assert set(found) == {(inference, gradients)}


def test_an_error_comes_in_its_turn(threads):
    def work(piece):
        if piece == 3:
            raise ValueError("three")
        return piece

    results = in_order(work, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_closing_drops_what_has_not_begun(threads):
    begun = []
    with closing(in_order(lambda piece: begun.append(piece) or piece, range(100))) as results:
        assert next(results) == 0
    at_once = len(begun)
    assert at_once <= 1 + 2 * workers.WORKERS
    time.sleep(0.02)
    assert len(begun) == at_once and not any(t.name.startswith("lora_graft") for t in threading.enumerate())


def test_no_more_pieces_are_begun_than_allowed(threads):
    begun = []
    ahead = [len(begun) - piece for piece in in_order(lambda piece: begun.append(piece) or piece, range(60))]
    assert max(ahead) <= 1 + 2 * threads


def test_some_pieces_are_done_by_the_calling_thread(threads):
    main = threading.current_thread()
    found = list(in_order(lambda piece: threading.current_thread() is main, range(8), here=lambda piece: piece % 2))
    assert found == ([True] * 8 if threads == 1 else [False, True] * 4)
