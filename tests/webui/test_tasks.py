"""Every kind of job on the example family, as page and API hand it in."""

from __future__ import annotations

import sys
import threading

import pytest
from lora_graft import adapters
from lora_graft.errors import GraftError, SettingsError
from lora_graft.webui.desk import told
from lora_graft.webui.fields import JOBS
from lora_graft.webui.jobs import DONE, FAILED, STOPPED
from lora_graft.webui.work import NO_PICTURES

pytestmark = pytest.mark.usefixtures("one_thread")
PAIR = {"source": "base_a.safetensors", "target": "base_b.safetensors"}
GIVEN = {
    "transfer": {"lora": "frame", **PAIR, "method": "copy"},
    "merge": {"loras": "<lora:frame:0.8> and <lora:slant:0.6:0.7>", "output": "both"},
    "resize": {"lora": "frame", "amount": 2},
    "similarity": {**PAIR, "lora": "frame"},
    "convert": {"lora": "frame", "layout": "diffusers"},
    "inspect": {"lora": "styles/slant"},
    "shelf": {**PAIR, "method": "copy"},
    "distill": {"loras": "<lora:frame>", **PAIR, "steps": 1, "count": 4, "batch": 4, "guards": 0, "start_from": "copy"},
}
WRITES = {
    "transfer": "frame-base_b",
    "merge": "both",
    "resize": "frame-rank-2",
    "convert": "frame-diffusers",
    "distill": "frame-base_b-taught",
}


def finished(desk, kind, given):
    job = desk.start(kind, given)
    return desk.queue.wait(job.number, 600)


@pytest.mark.parametrize("kind", JOBS)
def test_every_kind_of_job_brings_its_file_its_report_and_its_picture(desk, host, kind):
    before = set(host.lora_folder.rglob("*"))
    job = finished(desk, kind, GIVEN[kind])
    assert job.state == DONE, job.error
    assert job.total and job.done == job.total
    facts = told(job, whole=True)
    assert facts["markdown"] and facts["report"]
    new = set(host.lora_folder.rglob("*")) - before
    if kind in WRITES:
        assert [path.relative_to(host.lora_folder).as_posix() for path in new] == [f"{WRITES[kind]}.safetensors"]
        assert facts["lora"] == WRITES[kind] and adapters.read(new.pop()).modules
    elif kind == "shelf":
        assert {path.name for path in new} == {"moved", "frame.safetensors", "slant.safetensors"}
    else:
        assert not new
    drawn = kind in ("transfer", "merge", "resize", "similarity", "distill")
    assert (job.result.picture or b"").startswith(b"\x89PNG") == drawn
    assert str(host.lora_folder) not in str(facts), "no path of this machine leaves it"


def test_the_result_is_what_the_job_gives_from_python(desk, host, folders):
    import lora_graft

    bases, loras = folders
    finished(desk, "merge", {**GIVEN["merge"], "method": "ties", "density": 0.3, "rank": "fixed", "fixed_rank": 3})
    pair = [(loras / "frame.safetensors", 0.8, 0.8), (loras / "styles" / "slant.safetensors", 0.7, 0.6)]
    wanted = lora_graft.merge(pair, method="ties", density=0.3, rank=3).adapter
    assert digests(adapters.read(loras / "both.safetensors")) == digests(wanted)
    finished(desk, "transfer", {**GIVEN["transfer"], "method": "lora-x", "subspace": "fixed", "k": 5, "strength": 0.5})
    from lora_graft.kernels.spectral import SubspaceSize

    files = loras / "frame.safetensors", bases / "base_a.safetensors", bases / "base_b.safetensors"
    wanted = lora_graft.transfer(*files, method="lora-x", size=SubspaceSize(k=5), strength=0.5).adapter
    assert digests(adapters.read(loras / "frame-base_b.safetensors")) == digests(wanted)


def digests(adapter) -> dict[str, list]:
    modules = adapter.modules.items()
    return {key: [(name, t.tolist()) for name, t in sorted(module.tensors.items())] for key, module in modules}


def test_a_file_that_is_there_is_refused_before_and_after_the_wait(desk, host):
    with pytest.raises(GraftError, match="exists already"):
        desk.start("resize", {**GIVEN["resize"], "output": "frame"})
    first = desk.start("resize", {**GIVEN["resize"], "output": "new"})
    second = desk.start("resize", {**GIVEN["resize"], "output": "new", "amount": 1})
    assert desk.queue.wait(second.number, 600).state == FAILED and "exists already" in second.error
    assert first.state == DONE
    assert max(module.rank for module in adapters.read(host.lora_folder / "new.safetensors").modules.values()) == 2


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("transfer", {"lora": "../bases/base_a"}),
        ("transfer", {"lora": "/etc/passwd"}),
        ("transfer", {"source": "../loras/frame.safetensors"}),
        ("transfer", {"target": "base_b"}),
        ("transfer", {"output": "../out"}),
        ("merge", {"loras": "<lora:../../x:1>"}),
        ("merge", {"base": "nothing"}),
        ("shelf", {"folder": "../out"}),
        ("shelf", {"shelf": ["frame", "missing"]}),
    ],
)
def test_names_that_lead_nowhere_are_refused_before_the_job_is_lined_up(desk, kind, given):
    with pytest.raises(SettingsError):
        desk.start(kind, {**GIVEN[kind], **given})
    assert desk.queue.jobs() == []


def test_a_broken_file_on_the_shelf_is_told_and_the_rest_is_moved(desk, host):
    (host.lora_folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    job = finished(desk, "shelf", GIVEN["shelf"])
    assert job.state == DONE
    assert job.result.data["failures"][0].startswith("broken: ")
    assert {row["LoRA"]: row["result"] for row in job.result.data["loras"]} == {
        "broken": "failed",
        "frame": "moved",
        "styles/slant": "moved",
    }
    again = finished(desk, "shelf", GIVEN["shelf"])
    results = {row["LoRA"]: row["result"] for row in again.result.data["loras"]}
    assert results["frame"] == results["styles/slant"] == "there already", "what is there is no input and stays"


@pytest.mark.parametrize("kind", ["transfer", "merge", "resize", "similarity", "shelf"])
def test_stop_ends_every_long_job_at_its_next_module_and_nothing_is_written(desk, host, kind):
    """The first word of progress is answered by a stop; the job may do no more than the module at hand."""
    before, told_of = set(host.lora_folder.rglob("*")), []
    original, stopped = desk.queue.task, threading.Event()

    def task(kind, values, host, progress):
        def tell(done, total, label, /):
            told_of.append((done, total))
            if len(told_of) == 1:
                desk.queue.stop(desk.queue.jobs()[0].number)
                stopped.set()
            progress(done, total, label)

        return original(kind, values, host, tell)

    desk.queue.task = task
    job = finished(desk, kind, GIVEN[kind])
    assert stopped.is_set() and job.state == STOPPED
    assert len(told_of) == 1
    assert set(host.lora_folder.rglob("*")) == before


def test_a_stopped_distillation_keeps_its_best(desk, host):
    original = desk.queue.task

    def task(kind, values, host, progress):
        def tell(done, total, label, /):
            if total == 40 and done >= 20:
                desk.queue.stop(desk.queue.jobs()[0].number)
            progress(done, total, label)

        return original(kind, values, host, tell)

    desk.queue.task = task
    job = finished(desk, "distill", {**GIVEN["distill"], "steps": 40})
    assert job.state == STOPPED, job.error
    assert "frame-base_b-taught-unfinished" in job.error
    assert adapters.read(host.lora_folder / "frame-base_b-taught-unfinished.safetensors").modules


def test_without_matplotlib_the_report_says_so(desk, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    job = finished(desk, "similarity", GIVEN["similarity"])
    assert job.state == DONE and job.result.picture is None
    assert job.result.notes == [NO_PICTURES]


def test_the_host_is_told_of_every_new_file(desk, host, monkeypatch):
    news = []
    monkeypatch.setattr(host, "refreshed", lambda: news.append(True))
    finished(desk, "inspect", GIVEN["inspect"])
    assert not news
    finished(desk, "resize", GIVEN["resize"])
    finished(desk, "shelf", GIVEN["shelf"])
    assert len(news) == 2
