"""As an extension, in a host that is imitated: its folders, its queue, its progress, its door."""

from __future__ import annotations

import base64
import runpy
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_host import install
from lora_graft.webui import extension
from lora_graft.webui.a1111 import A1111
from lora_graft.webui.jobs import DONE, STOPPED

PACK = Path(__file__).resolve().parents[2]
DOOR = PACK / "scripts" / "lora_graft.py"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fake(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_GRAFT_CACHE", str(tmp_path / "cache"))
    extension.desk.cache_clear()
    yield install(monkeypatch, *folders)
    extension.desk.cache_clear()


def test_bases_are_the_hosts_list_and_loras_all_its_folders(fake, folders, tmp_path):
    host = A1111()
    assert list(host.bases()) == ["base_a.safetensors", "base_b.safetensors", "base_s.safetensors"]
    (folders[0] / "old.ckpt").touch()
    listed = fake.sd_models.checkpoints_list
    listed["old"] = SimpleNamespace(name="old.ckpt", filename="old.ckpt")
    listed["deep"] = SimpleNamespace(name="deep\\c.safetensors", filename="c.safetensors")
    (folders[0] / "folder").mkdir()
    (folders[0] / "folder" / "model_index.json").touch()
    fake.shared.cmd_opts.ckpt_dir = str(folders[0])
    assert "old.ckpt" not in host.bases(), "a pickle is no choice"
    assert {"deep/c.safetensors", "folder"} < set(host.bases()), "a model in a folder is one"
    assert list(host.loras()) == ["frame", "styles/slant"]
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(folders[1] / "frame.safetensors", more / "extra.safetensors")
    fake.shared.cmd_opts.lora_dirs = [str(more)]
    assert list(host.loras()) == ["extra", "frame", "styles/slant"], "Neo has several folders"


def test_a_job_waits_behind_the_hosts_own_and_shows_in_its_progress(fake, folders):
    desk, shown = extension.desk(), []
    with fake.call_queue.queue_lock:
        job = desk.start("resize", {"lora": "frame", "amount": 2})
        assert job.state == "waiting" and fake.shared.state.job_count == 0

    class Watched(type(fake.shared.state)):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "sampling_step" and self.job_count == 1:
                shown.append((self.job, self.progress()))

    desk.queue.wait(job.number, 600)
    fake.shared.state.__class__ = Watched
    second = desk.start("resize", {"lora": "frame", "amount": 3})
    desk.queue.wait(second.number, 600)
    assert job.state == second.state == DONE
    assert {name for name, _ in shown} == {"lora_graft"}
    steps = [progress for _, progress in shown]
    assert steps == sorted(steps) and steps[-1] == 1 and len(steps) > 10
    assert fake.shared.state.began == fake.shared.state.ended == 2 and fake.shared.state.progress() == 0
    assert fake.networks.listed == 2, "the host's own list has the new files"
    assert not fake.call_queue.queue_lock.locked()


def test_the_hosts_interrupt_stops_a_job_within_a_module(fake, folders):
    desk, seen = extension.desk(), []
    original = desk.queue.task

    def task(kind, values, host, progress):
        def tell(done, total, label, /):
            seen.append(done)
            if len(seen) == 2:
                fake.shared.state.interrupt()
            progress(done, total, label)

        return original(kind, values, host, tell)

    desk.queue.task = task
    job = desk.start("merge", {"loras": "<lora:frame><lora:slant>"})
    assert desk.queue.wait(job.number, 600).state == STOPPED
    assert len(seen) == 2 and not (folders[1] / "frame+slant-merged.safetensors").exists()
    assert fake.shared.state.ended == 1
    desk.queue.task = original
    after = desk.start("resize", {"lora": "frame", "amount": 2})
    assert desk.queue.wait(after.number, 600).state == DONE, "the interrupt was for that job alone"


def test_the_settings_page_and_what_it_changes(fake, folders):
    pytest.importorskip("gradio", reason="gradio is not installed")
    extension.settings()
    added = fake.shared.opts.added
    assert set(added) == {"lora_graft_language", "lora_graft_device", "lora_graft_folder"}
    assert {info.section for info in added.values()} == {("lora_graft", "LoRA Graft")}


def test_settings_are_obeyed(fake, folders):
    host, opts = A1111(), fake.shared.opts
    assert host.language == "en" and host.lora_folder == folders[1]
    opts.localization = "zh_CN"
    assert host.language == "zh"
    opts.lora_graft_language = "en"
    assert host.language == "en"
    opts.lora_graft_folder = "grafted"
    assert host.lora_folder == folders[1] / "grafted" and host.lora_folder.is_dir()
    opts.lora_graft_folder = "../../out"
    assert host.lora_folder == folders[1], "a setting leads out of the folder no more than a page does"
    opts.lora_graft_device = "cpu"
    assert host.device == "cpu"
    fake.shared.cmd_opts.cors_allow_origins = "https://a.example, *,https://b.example/"
    assert host.origins == ("https://a.example", "https://b.example")


def test_the_routes_are_there_with_the_hosts_api_and_behind_its_password(fake):
    fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed")
    pytest.importorskip("httpx", reason="httpx is not installed")
    from fastapi.testclient import TestClient

    fake.shared.cmd_opts.api = False
    app = fastapi.FastAPI()
    extension.routes(None, app)
    assert TestClient(app).get("/lora-graft/v1/loras").status_code == 404
    fake.shared.cmd_opts.api, fake.shared.cmd_opts.api_auth = True, "me:secret,you:word"
    app = fastapi.FastAPI()
    extension.routes(None, app)
    client = TestClient(app)
    assert client.get("/lora-graft/v1/loras").status_code == 401
    for pair, status in (("me:secret", 200), ("you:word", 200), ("me:word", 401), ("", 401)):
        word = base64.b64encode(pair.encode()).decode()
        headers = {"Authorization": f"Basic {word}"}
        assert client.get("/lora-graft/v1/loras", headers=headers).status_code == status, pair


def test_the_door_registers_once_per_load_and_keeps_the_queue(fake):
    runpy.run_path(str(DOOR))
    kept = extension.desk()
    runpy.run_path(str(DOOR))  # Reload UI
    assert {event: len(callbacks) for event, callbacks in fake.heard.items()} == dict.fromkeys(fake.heard, 2)
    assert fake.heard["ui_tabs"][0] is extension.tabs and extension.desk() is kept


def test_the_door_opens_a_clone_of_any_name_without_typer_rich_or_matplotlib(folders, tmp_path):
    """In a Python of its own, as the host loads it: by path, with the clone's root on sys.path only meanwhile."""
    clone = tmp_path / "extensions" / "LoRA-Graft"
    clone.parent.mkdir()
    clone.symlink_to(PACK)
    code = f"""
        import builtins, runpy, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from fake_host import install
        class Patch:
            setitem = staticmethod(lambda mapping, name, value: mapping.__setitem__(name, value))
        fake = install(Patch, Path({str(folders[0])!r}), Path({str(folders[1])!r}))
        for name in ("typer", "rich", "matplotlib", "pydantic"):
            sys.modules[name] = None
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
        before, path = set(sys.modules), list(sys.path)
        sys.path = [{str(clone)!r}, *path]
        runpy.run_path({str(clone / "scripts" / "lora_graft.py")!r})
        sys.path = path
        strangers = sorted(n for n in set(sys.modules) - before if n.split(".")[0] in
                           ("jobs", "io_", "names", "choices", "errors", "cli", "webui", "nodes"))
        from lora_graft.webui.extension import desk
        import lora_graft
        job = desk().start("inspect", {{"lora": "frame"}})
        desk().queue.wait(job.number, 600)
        print(job.state, strangers, lora_graft.__file__, "torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state, strangers, where, _ = done.stdout.strip().splitlines()[-1].split(" ")
    assert (state, strangers, Path(where)) == ("done", "[]", clone / "__init__.py")


def test_stop_on_the_page_while_the_host_draws(fake):
    desk, lock = extension.desk(), fake.call_queue.queue_lock
    assert isinstance(lock, type(threading.Lock()))
    with lock:
        job = desk.start("resize", {"lora": "frame", "amount": 2})
        assert desk.queue.stop(job.number) and job.state == STOPPED
