"""Ctrl-C and lack of memory at a few moments of the jobs, a fixed part of benchmarks/moments.py."""

import asyncio
import sys
import threading
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import fault_jobs
import lora_graft
import moments
from every_job import JOBS
from lora_graft.errors import in_words
from lora_graft.jobs import workers
from lora_graft.jobs.memory import memory_told
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.jobs.transfer.transfer import TransferSettings, transfer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are a POSIX thing")
pytest.importorskip("httpx")
pytest.importorskip("websockets")


@pytest.mark.parametrize(("name", "count"), [("transfer", 4), ("merge", 3), ("batch", 4), ("distill", 1)])
def test_ctrl_c_loses_nothing_and_leaves_nothing(name, count, tmp_path, one_thread):
    tried, findings = moments.strike_often(JOBS[name], tmp_path.resolve(), count, seed=3)
    assert not findings
    assert tried.killed + tried.worked == count and tried.killed


@pytest.mark.parametrize("job", ["transfer", "merge", "resize"])
def test_a_cancel_at_every_call_of_the_progress(job, tmp_path):
    """As a host cancels: what came in is as it was, no thread is left, the next run is right."""
    (tmp_path / "in").mkdir()
    fault_jobs._files(tmp_path)
    one, two = (lora_graft.read(tmp_path / "in" / f"{name}.safetensors") for name in ("one", "two"))
    a, b = (lora_graft.open_base(tmp_path / "in" / f"{name}.safetensors") for name in "ab")
    calls = {
        "transfer": lambda tell: transfer(one, a, b, TransferSettings(method="lora-x"), progress=tell).adapter,
        "merge": lambda tell: merge([(one, 1, 1), (two, 1, 1)], MergeSettings(rank=2), progress=tell).adapter,
        "resize": lambda tell: resize(one, ResizeSettings(amount=2), progress=tell).adapter,
    }
    torch.set_num_threads(2)
    try:
        before, seen = contents(one), []
        right = contents(calls[job](lambda *step: seen.append(step)))
        around = set(threading.enumerate())
        assert len(seen) > len(one.modules)  # before every module, and at the end
        for at in range(len(seen)):
            left = iter(range(at))

            def stop(*step, left=left):
                if next(left, None) is None:
                    raise Cancelled

            with pytest.raises(Cancelled):
                calls[job](stop)
            assert set(threading.enumerate()) <= around and torch.get_num_threads() == 2
        assert contents(one) == before and contents(calls[job](lambda *step: None)) == right
    finally:
        torch.set_num_threads(1)


class Cancelled(Exception):
    """What a host raises when its user cancels."""


def contents(adapter):
    return {
        key: {suffix: tensor.tolist() for suffix, tensor in module.tensors.items()}
        for key, module in adapter.modules.items()
    }


@pytest.mark.parametrize("kind", moments.MEMORY)
def test_memory_that_gives_out_is_told(kind, tmp_path, one_thread):
    strike = moments.MEMORY[kind]
    tried, findings = moments.strike_often(JOBS["merge"], tmp_path.resolve(), 4, 3, strike, within="/jobs/merge/")
    assert not findings
    assert tried.failed == 4


@pytest.mark.parametrize("strike", moments.MEMORY.values(), ids=moments.MEMORY)
def test_what_lacks_and_what_to_lower(strike):
    with pytest.raises((MemoryError, torch.cuda.OutOfMemoryError)) as caught, memory_told("Lower k."):
        strike()
    assert in_words(caught.value) == "There is not enough memory\nLower k."
    again = memory_told("Something else.")
    with pytest.raises(type(caught.value), match="Lower k"), again:
        raise caught.value
    with pytest.raises(RuntimeError, match="shapes"), memory_told("Lower k."):
        raise RuntimeError("shapes do not fit")


def test_threads_that_wait_to_begin_end_when_the_caller_is_interrupted(monkeypatch):
    class Struck(threading.Barrier):
        def wait(self, timeout=None):
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(workers, "Barrier", Struck)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        workers._pool(2)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()


def test_a_batch_ends_although_a_task_swallows_a_cancel(tmp_path):
    from lora_graft.batch import run
    from lora_graft.batch.jobs import Job
    from lora_graft.batch.pool import Pool
    from lora_graft.batch.watch import Watch

    class Deaf:
        gone, name, swallowed = False, "http://a:1", 0

        def __init__(self):
            self.wake = asyncio.Event()

        async def adopt(self):
            pass

        async def withdraw(self):
            pass

        async def run(self):
            self.over.set()
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    self.swallowed += 1
                    if self.swallowed == 2:
                        raise

    async def main():
        order = run.Order([], ["http://a:1"], tmp_path)
        batch = run.Batch(order, Pool([Job("x", {}, {})], ["http://a:1"]), None, Watch(1, 0, []))
        batch.workers = [Deaf()]
        batch.workers[0].over = batch.over
        await batch.work()
        return batch.workers[0].swallowed

    async def limited():
        task = asyncio.create_task(main())
        done, _ = await asyncio.wait({task}, timeout=20)
        assert done, "it waits for ever"
        return task.result()

    assert asyncio.run(limited()) == 2
