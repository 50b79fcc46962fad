"""The queue: order, stopping, failures, what is remembered, and the host around it. No test here waits for a clock."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from lora_graft.errors import GraftError, SettingsError
from lora_graft.webui import jobs
from lora_graft.webui.jobs import DONE, FAILED, RUNNING, STOPPED, WAITING, Job, Queue

LONG = 60  # seconds until a test that hangs fails


class Work:
    """A task in steps, each of which waits for the test; `seen` lists (title, step)."""

    def __init__(self):
        self.seen: list[tuple[str, int]] = []
        self.step, self.begun = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, kind, values, host, progress):
        for number in range(values["steps"]):
            self.seen.append((values["name"], number))
            self.begun.release()
            assert self.step.acquire(timeout=LONG)
            progress(number + 1, values["steps"], f"module {number}")
        if values.get("error"):
            raise values["error"]
        return f"{values['name']} is done"


class Host:
    """A host that other work can keep busy, and that can be asked to interrupt."""

    def __init__(self):
        self.lock, self.stop, self.heard = threading.Lock(), threading.Event(), []

    @contextmanager
    def working(self, title):
        with self.lock:
            self.heard.append(f"begin {title}")
            self.stop.clear()
            yield self
            self.heard.append(f"end {title}")

    def tell(self, done, total):
        self.heard.append((done, total))

    def interrupted(self):
        return self.stop.is_set()


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def queue(host, work):
    return Queue(host, work)


def line_up(queue, name, steps=3, **more) -> Job:
    return queue.submit("merge", name, {"name": name, "steps": steps, **more})


def ended(queue, job) -> Job:
    assert queue.wait(job.number, LONG).state in jobs.ENDED
    return job


def test_one_after_the_other_in_their_order(queue, work):
    work.step.release(9)
    three = [line_up(queue, name) for name in "abc"]
    for job in three:
        assert ended(queue, job).state == DONE and job.result == f"{job.title} is done"
    assert work.seen == [(name, step) for name in "abc" for step in range(3)]
    assert [job.title for job in queue.jobs()] == ["c", "b", "a"], "the latest first"


def test_stop_ends_a_job_within_the_module_at_hand(queue, work):
    job = line_up(queue, "long", steps=1000)
    assert work.begun.acquire(timeout=LONG)
    assert job.state == RUNNING
    assert queue.stop(job.number)
    work.step.release()
    assert ended(queue, job).state == STOPPED
    assert work.seen == [("long", 0)]
    assert not queue.stop(job.number), "it has ended"


def test_a_waiting_job_is_stopped_at_once_and_never_begins(queue, work):
    first, second = line_up(queue, "first", 1), line_up(queue, "second")
    assert work.begun.acquire(timeout=LONG)
    assert second.state == WAITING and queue.stop(second.number)
    assert second.state == STOPPED
    work.step.release()
    assert ended(queue, first).state == DONE
    work.step.release()
    third = ended(queue, line_up(queue, "third", 1))
    assert third.state == DONE and {name for name, _ in work.seen} == {"first", "third"}


def test_a_job_waits_for_the_hosts_own_work_and_can_be_stopped_meanwhile(queue, host, work):
    with host.lock:
        first, second = line_up(queue, "first", 1), line_up(queue, "second", 1)
        assert queue.stop(first.number) and first.state == STOPPED
        assert second.state == WAITING and not work.seen
    work.step.release()
    assert ended(queue, second).state == DONE and work.seen == [("second", 0)]


def test_the_host_hears_how_far_it_is_and_may_interrupt(queue, host, work):
    job = line_up(queue, "job")
    work.step.release()
    for _ in range(2):
        assert work.begun.acquire(timeout=LONG)
    host.stop.set()
    work.step.release()
    assert ended(queue, job).state == STOPPED
    work.step.release()
    ended(queue, line_up(queue, "next", 1))
    assert host.heard == ["begin job", (1, 3), "end job", "begin next", (1, 1), "end next"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (GraftError("the file is broken", hint="Take another."), "the file is broken\nTake another."),
        (FileNotFoundError(2, "No such file", "a.safetensors"), "No such file (file a.safetensors)"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (MemoryError(), "There is not enough memory"),
    ],
)
def test_a_failure_is_kept_and_the_queue_goes_on(queue, work, error, words):
    work.step.release(2)
    failed, after = line_up(queue, "bad", 1, error=error), line_up(queue, "good", 1)
    assert ended(queue, failed).state == FAILED and failed.error == words
    assert ended(queue, after).state == DONE


def test_a_host_that_fails_fails_the_job_alone(queue, host, work, monkeypatch):
    @contextmanager
    def broken(title):
        raise RuntimeError("no lock")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(host, "working", broken)
        assert ended(queue, line_up(queue, "a")).error == "no lock"
    work.step.release()
    assert ended(queue, line_up(queue, "b", 1)).state == DONE


def test_the_oldest_that_ended_are_forgotten_and_nobody_else(queue, work, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT", 2)
    work.step.release(4)
    four = [line_up(queue, name, 1) for name in "abcd"]
    ended(queue, four[-1])
    assert [job.title for job in queue.jobs()] == ["d", "c"]
    assert queue.job(four[0].number) is None and not queue.stop(four[0].number)


def test_a_queue_is_not_endless(queue, monkeypatch):
    monkeypatch.setattr(jobs, "LINED_UP", 1)
    first = line_up(queue, "a")
    with pytest.raises(SettingsError, match="waiting already"):
        for _ in range(3):
            line_up(queue, "more")
    for job in (first, *queue.jobs()):
        queue.stop(job.number)


def test_the_time_left_is_that_of_the_phase(monkeypatch):
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock))
    job = Job(1, "merge", "", {}, state=RUNNING)
    assert job.left is None
    job.tell(0, 10, "reading")  # second 0
    job.tell(2, 10, "reading")
    assert job.left == pytest.approx((1 - 0) / 2 * 8)
    job.tell(0, 4, "writing")  # second 2
    assert job.left is None
    job.tell(1, 4, "writing")
    assert job.left == pytest.approx((3 - 2) / 1 * 3)


def test_closing_stops_what_runs_and_what_waits(queue, work):
    first, second = line_up(queue, "first"), line_up(queue, "second")
    assert work.begun.acquire(timeout=LONG)
    work.step.release()
    queue.close(LONG)
    assert (first.state, second.state) == (STOPPED, STOPPED)
