"""Items in processes of their own: what fails is told, and a process that dies costs only its item."""

from __future__ import annotations

import signal
import sys

import pytest
import torch
from lora_graft.jobs.processes import Processes
from lora_graft.jobs.progress import silent


def test_results_and_reasons_come_with_their_items_from_a_process_that_was_set_up():
    """The items are expressions: what a child calls must have a module that it finds."""
    steps = []
    seed, threads = "__import__('torch').initial_seed()", "__import__('torch').get_num_threads()"
    with Processes(1, torch.manual_seed, 7, threads=1) as processes:
        answers = processes.each(eval, [seed, threads, "1 / 0"], lambda *step: steps.append(step), label=len)
        found = {item: (result, reason) for item, result, reason in answers}
    assert found == {seed: (7, ""), threads: (1, ""), "1 / 0": (None, "ZeroDivisionError: division by zero")}
    assert [step[:2] for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(label for *_, label in steps) == sorted(map(len, found))


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a POSIX thing")
def test_a_process_that_is_killed_costs_only_its_own_item():
    deadly, harmless = int(signal.SIGKILL), int(signal.SIGCHLD)
    with Processes(1, torch.manual_seed, 0) as processes:
        ends = {item: reason for item, _, reason in processes.each(signal.raise_signal, [deadly, harmless], silent)}
    assert ends[harmless] == "" and "want of memory" in ends[deadly]


def test_what_the_progress_raises_ends_the_processes():
    def stop(done, total, label):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Processes(1, torch.manual_seed, 0) as processes:
        for _ in processes.each(eval, ["1", "__import__('time').sleep(600)"], stop):
            pass
    assert processes._pool is None
