"""Batches on servers that die, forget, refuse and return: every job ends once."""

import asyncio
import io
import json
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("httpx")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))

from fake_comfy import GRAPH, FakeComfy
from fake_comfy import run as in_its_time
from lora_graft.batch import run, worker
from lora_graft.batch.server import Foreign, Server, Unreachable
from lora_graft.batch.workflow import Workflow
from lora_graft.errors import GraftError

A, B = "http://a:1", "http://b:1"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(worker, "POLL", 0.02)
    monkeypatch.setattr(worker, "HURRY", 0.002)
    monkeypatch.setattr(worker, "RETRY", 0.01)


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Runs a batch of some seeds on fake servers, with things happening beside it."""

    def go(*fakes, seeds=12, meanwhile=None, sets=None, **order):
        by_url = {fake.url: fake for fake in fakes}
        monkeypatch.setattr(run, "Server", lambda url, client: by_url[url].server(url, client))
        order = run.Order(
            sets or ["Draw v1.5.seed=" + "|".join(map(str, range(seeds)))],
            list(by_url),
            tmp_path / "out",
            **{"grace": 0.05, "patience": 0.3, **order},
        )

        async def main():
            beside = [asyncio.create_task(fake.work()) for fake in fakes]
            if meanwhile:
                beside.append(asyncio.create_task(meanwhile()))
            try:
                return await asyncio.wait_for(run.carry_out(Workflow(GRAPH), order, say=lambda text: None), 20)
            finally:
                for task in beside:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

        return in_its_time(main())

    return go


def events(folder, *kinds):
    lines = (folder / "out" / "manifest.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] in kinds]


def whole(folder, seeds=12):
    """Each seed has one result, of its own, on disk."""
    done = events(folder, "done")
    assert sorted(event["values"]["Draw v1.5.seed"] for event in done) == list(range(seeds))
    for event in done:
        (name,) = event["files"]
        assert (folder / "out" / name).read_text().endswith(f" x_{event['values']['Draw v1.5.seed']}.png")


async def until(fact):
    while not fact():
        await asyncio.sleep(0.001)


def test_two_servers_share_the_work_and_queues_stay_short(batch, tmp_path):
    a, b = FakeComfy(A), FakeComfy(B)
    summary = batch(a, b, seeds=30, ahead=3)
    assert summary.done == 30 and not summary.failed and summary.stopped is None
    assert a.ran and b.ran and sorted(a.ran + b.ran) == list(range(30))
    assert max(a.longest, b.longest) <= 3
    whole(tmp_path, 30)


def test_what_waits_at_a_slow_server_goes_to_an_idle_one(batch, tmp_path):
    slow, fast = FakeComfy(A, seconds=1.0), FakeComfy(B)
    summary = batch(slow, fast, ahead=4)
    assert summary.done == 12 and len(slow.ran) == 1 and len(fast.ran) == 11
    whole(tmp_path)


@pytest.mark.parametrize("takes", [0.0, 0.03])
def test_each_result_is_noted_once_and_a_second_call_does_what_is_missing(batch, tmp_path, takes):
    """However often a prompt changes hands. A prompt on its way to a slow server is not given to another as well."""
    a, b = FakeComfy(A, seconds=0.2, fails={3, 7}, takes=takes), FakeComfy(B, seconds=0.02, fails={3, 7})
    assert batch(a, b, ahead=4).done == 10
    assert sorted(a.ran + b.ran) == list(range(12))
    queued = len(events(tmp_path, "queued"))
    a, b = FakeComfy(A, seconds=0.2, takes=takes), FakeComfy(B, seconds=0.02)
    summary = batch(a, b, ahead=4)
    assert (summary.before, summary.done) == (10, 12)
    assert sorted(a.ran + b.ran) == [3, 7], "nothing but what was missing, and that once"
    again = events(tmp_path, "queued")[queued:]
    assert {event["values"]["Draw v1.5.seed"] for event in again} == {3, 7}
    assert max(Counter(event["job"] for event in events(tmp_path, "done")).values()) == 1
    whole(tmp_path)


def test_a_prompt_on_its_way_to_a_server_is_not_stolen(batch, tmp_path):
    a, b = FakeComfy(A, takes=0.1), FakeComfy(B, seconds=0.08)  # B is idle while the other prompt is on its way
    assert batch(a, b, seeds=2, ahead=2).done == 2
    assert sorted(a.ran + b.ran) == [0, 1]
    whole(tmp_path, 2)


def test_a_server_that_dies_leaves_its_prompts_to_the_others(batch, tmp_path):
    a, b = FakeComfy(A), FakeComfy(B)

    async def kill():
        await until(lambda: len(b.ran) >= 2 and b.running)
        b.down = True
        b.restart()

    summary = batch(a, b, meanwhile=kill)
    assert summary.done == 12
    whole(tmp_path)


def test_prompts_lost_in_a_restart_are_queued_again(batch, tmp_path):
    a = FakeComfy(A)

    async def restart():
        await until(lambda: len(a.ran) == 4 and len(a.queue) == 2)
        a.restart()

    summary = batch(a, meanwhile=restart, ahead=3)
    assert summary.done == 12
    whole(tmp_path)
    assert len(events(tmp_path, "queued")) > 12


def test_a_server_that_was_only_out_of_reach_is_not_counted_twice(batch, tmp_path):
    """It goes on working alone; what it did is taken over, or dropped when another was first."""
    a, b = FakeComfy(A, seconds=0.2), FakeComfy(B, seconds=0.02)

    async def cut():
        await until(lambda: b.ran and b.running and len(b.queue) == 3)
        b.unplugged = True
        b.tell(None)
        await until(lambda: not b.queue and not b.running)
        await asyncio.sleep(0.1)
        b.unplugged = False

    summary = batch(a, b, seeds=20, meanwhile=cut, ahead=4)
    assert summary.done == 20
    whole(tmp_path, 20)
    assert max(Counter(e["job"] for e in events(tmp_path, "done", "failed")).values()) == 1
    assert len(a.ran) + len(b.ran) == 20, "what it finished alone was fetched when it was back, not done again"


def test_all_servers_gone_keeps_the_manifest_and_the_next_call_goes_on(batch, tmp_path):
    a = FakeComfy(A)

    async def kill():
        await until(lambda: len(a.history) == 5 and len(events(tmp_path, "done")) == 5)
        a.down = True
        a.restart()

    summary = batch(a, meanwhile=kill)
    assert summary.stopped and summary.done < 12
    before = summary.done
    again = FakeComfy(A)
    summary = batch(again)
    assert summary.before == before and summary.done == 12 and len(again.ran) == 12 - before
    whole(tmp_path)


def test_results_of_a_killed_call_are_fetched_not_made_again(batch, tmp_path):
    a = FakeComfy(A)
    batch(a)
    path = tmp_path / "out" / "manifest.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"event": "done"' not in line) + '{"event": "que')
    summary = batch(a)
    assert summary.before == 0 and summary.done == 12 and len(a.ran) == 12
    whole(tmp_path)
    assert batch(a).before == 12 and len(a.ran) == 12


def test_failures_carry_the_nodes_words_and_the_rest_is_finished(batch, tmp_path):
    summary = batch(FakeComfy(A, fails={3, 7}))
    assert summary.done == 10
    assert [outcome.error for _, outcome in summary.failed] == [
        "Draw v1.5 (node 2): seed 3 hurts",
        "Draw v1.5 (node 2): seed 7 hurts",
    ]
    mended = FakeComfy(A)
    assert batch(mended).done == 12 and sorted(mended.ran) == [3, 7]


def test_what_one_server_refuses_another_does(batch, tmp_path):
    a, b = FakeComfy(A, refuses=range(6)), FakeComfy(B, refuses=[11])
    assert batch(a, b).done == 12
    whole(tmp_path)


def test_what_every_server_refuses_is_a_failure(batch):
    summary = batch(FakeComfy(A, refuses=[2]), FakeComfy(B, refuses=[2]))
    assert summary.done == 11
    assert [outcome.error for _, outcome in summary.failed] == ["Draw v1.5 (node 2): Value not in list: seed 2"]


def test_what_only_a_dead_server_would_take_ends_too(batch):
    a, b = FakeComfy(A, refuses=[2]), FakeComfy(B, seconds=0.05)

    async def kill():
        await until(lambda: b.running)
        b.down = True
        b.restart()

    summary = batch(a, b, meanwhile=kill, sets=["2.seed=0|1|3|2"])
    assert summary.done == 3 and len(summary.failed) == 1


def test_a_prompt_taken_with_holes_is_called_back(batch):
    a = FakeComfy(A, holes=[4], seconds=0.05)
    summary = batch(a)
    assert summary.done == 11 and len(summary.failed) == 1 and a.cancelled


def test_a_prompt_that_brings_servers_down_is_given_up(batch):
    summary = batch(FakeComfy(A, seconds=0.05, kills=[5]), FakeComfy(B, seconds=0.05, kills=[5]))
    ((job, outcome),) = summary.failed
    assert summary.done == 11 and job.values == {"Draw v1.5.seed": 5} and "went down 3 times" in outcome.error


def test_a_result_that_the_server_lost_is_a_failure(batch):
    summary = batch(FakeComfy(A, lost_files=["x_6.png"]))
    assert summary.done == 11 and "x_6.png cannot be fetched" in summary.failed[0][1].error


def test_old_hosts_choose_the_ids(batch, tmp_path):
    a = FakeComfy(A, own_ids=True)
    assert batch(a).done == 12 and len(a.ran) == 12
    whole(tmp_path)


def test_results_may_stay_where_they_are(batch, tmp_path):
    assert batch(FakeComfy(A), leave=True).done == 12
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]
    assert {tuple(f) for e in events(tmp_path, "done") for f in e["files"]} == {("filename", "subfolder", "type")}


def test_a_server_that_is_away_at_first_joins_later(batch, tmp_path):
    a, b = FakeComfy(A, seconds=0.02), FakeComfy(B)
    b.down = True

    async def start():
        await until(lambda: len(a.ran) == 3)
        b.down = False

    assert batch(a, b, meanwhile=start).done == 12 and b.ran
    whole(tmp_path)


def test_unknown_classes_and_silent_servers_are_told_before_the_start(batch, tmp_path, monkeypatch):
    dead = FakeComfy(A)
    dead.down = True
    with pytest.raises(Unreachable, match="nothing listens"):
        batch(dead)
    monkeypatch.setitem(GRAPH, "9", {"class_type": "Nowhere", "inputs": {}})
    with pytest.raises(GraftError, match="knows no node Nowhere"):
        batch(FakeComfy(A))
    assert not (tmp_path / "out").exists()


def test_a_web_server_that_is_no_comfyui():
    import httpx

    async def ask(answer):
        server = Server("http://x:1", "me")
        server._http = httpx.AsyncClient(base_url="http://x:1", transport=httpx.MockTransport(lambda r: answer))
        await server.check()

    for answer in (httpx.Response(404), httpx.Response(200, text="<html>"), httpx.Response(200, json={"system": {}})):
        with pytest.raises(Foreign, match="is not ComfyUI"):
            asyncio.run(ask(answer))
    with pytest.raises(Unreachable):
        asyncio.run(ask(httpx.Response(503)))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_the_whole_and_each_server(batch, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    a, b = FakeComfy(A, seconds=0.03), FakeComfy(B, seconds=0.03)

    async def kill():
        await until(lambda: b.running)
        b.down = True
        b.restart()

    assert batch(a, b, meanwhile=kill).done == 12
    shown = screen.getvalue()
    assert "12/12" in shown and A in shown and "does not answer" in shown and "prompts go back into the queue" in shown
