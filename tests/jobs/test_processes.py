"""Items in processes of their own: what fails is told, and a process that dies costs only its item."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from lora_graft.jobs.processes import Processes
from lora_graft.jobs.progress import silent


def test_results_and_reasons_come_with_their_items_from_a_process_that_was_set_up(tmp_path):
    """The set-up enters a folder, in which the items are looked for."""
    (tmp_path / "three").write_text("abc")
    steps = []
    with Processes(1, os.chdir, tmp_path, threads=1) as processes:
        answers = processes.each(os.path.getsize, ["three", "absent"], lambda *step: steps.append(step), label=len)
        found = {item: (result, reason) for item, result, reason in answers}
    assert found["three"] == (3, "")
    assert found["absent"][0] is None and "absent" in found["absent"][1]
    assert [step[:2] for step in steps] == [(1, 2), (2, 2)]
    assert sorted(label for *_, label in steps) == [5, 6]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a POSIX thing")
def test_a_process_that_is_killed_costs_only_its_own_item():
    deadly, harmless = int(signal.SIGKILL), int(signal.SIGCHLD)
    with Processes(1, os.chdir, os.curdir) as processes:
        ends = {item: reason for item, _, reason in processes.each(signal.raise_signal, [deadly, harmless], silent)}
    assert ends[harmless] == "" and "want of memory" in ends[deadly]


def test_what_the_progress_raises_ends_the_processes():
    def stop(done, total, label):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Processes(1, os.chdir, os.curdir) as processes:
        for _ in processes.each(time.sleep, [0, 600], stop):
            pass
    assert processes._pool is None
