"""A shelf of LoRAs pushed through two real servers; one goes down half-way, one file is broken."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lora_graft.family.materialize import EFFECTS, materialize
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host
pytest.importorskip("httpx")
pytest.importorskip("websockets")
COUNT, BROKEN = 60, "shelf_17.safetensors"
GRAPH = {
    "target": {
        "class_type": "UNETLoader",
        "_meta": {"title": "Target"},
        "inputs": {"unet_name": "family_b.safetensors", "weight_dtype": "default"},
    },
    "source": {
        "class_type": "UNETLoader",
        "_meta": {"title": "Source"},
        "inputs": {"unet_name": "family_a.safetensors", "weight_dtype": "default"},
    },
    "lora": {
        "class_type": "LoraGraft_LoadLoRA",
        "_meta": {"title": "Load LoRA"},
        "inputs": {"lora_name": "shelf_00.safetensors"},
    },
    "transfer": {
        "class_type": "LoraGraft_Transfer",
        "_meta": {"title": "LoRA-X Transfer"},
        "inputs": {
            "lora": ["lora", 0],
            "source": ["source", 0],
            "target": ["target", 0],
            "method": "copy",
            "subspace": "fixed",
            "k_share": 0.25,
            "k": 8,
            "energy": 0.9,
            "threshold": 0.0,
            "rank": 0,
            "strength": 1.0,
        },
    },
    "picture": {"class_type": "PreviewImage", "inputs": {"images": ["transfer", 4]}},
    "save": {
        "class_type": "LoraGraft_SaveLoRA",
        "_meta": {"title": "Save LoRA"},
        "inputs": {
            "lora": ["transfer", 0],
            "filename_prefix": "moved",
            "folder": "output/loras",
            "dtype": "same",
            "layout": "same",
        },
    },
}


def shelf(models: Path) -> None:
    """The family, and 60 LoRAs: an effect each at its own strength; one is cut off in the middle."""
    files = materialize(models, text_encoder=False)
    for number in range(COUNT):
        source = files[f"family_{EFFECTS[number % 3]}_a"]
        with safe_open(source, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(source)
        for key in tensors:
            if key.endswith(".alpha"):
                tensors[key] = tensors[key] * (1 + number / 100)
        target = models / "loras" / f"shelf_{number:02}.safetensors"
        save_file(tensors, target, metadata)
        if target.name == BROKEN:
            target.write_bytes(target.read_bytes()[:5000])


@pytest.fixture(scope="module")
def hosts(host, tmp_path_factory):
    """Two servers with the same shelf. The second one, started for these tests alone, may be stopped and started."""
    from server import PACK_NAME, Host

    second = Host(host.folder, host.python, tmp_path_factory.mktemp("second"), {PACK_NAME: Path(__file__).parents[2]})
    second.start()
    try:
        shelf(host.models)
        shelf(second.models)
        second.wait()
        yield host, second
    finally:
        second.stop()


@pytest.fixture
def batch(hosts, tmp_path):
    """Starts the command line on both servers, as a process."""
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(GRAPH))

    def start(*more, values="shelf_*.safetensors") -> subprocess.Popen:
        servers = [part for h in hosts for part in ("--server", f"http://127.0.0.1:{h.port}")]
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "lora_graft.cli",
                "batch",
                str(file),
                "--set",
                f"Load LoRA.lora=loras/{values}",
                "--set",
                "Target.unet=family_b.safetensors|family_c.safetensors",
                *servers,
                "-o",
                str(tmp_path / "out"),
                *more,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def events(folder: Path, kind: str) -> list[dict]:
    path = folder / "out" / "manifest.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == kind]


def until(process: subprocess.Popen, folder: Path, count: int) -> None:
    end = time.monotonic() + 600
    while len(events(folder, "done")) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def pairs(ended: list[dict]) -> list[tuple]:
    return [tuple(event["values"].values()) for event in ended]


def test_sixty_loras_for_two_targets_with_a_server_that_dies(hosts, batch, tmp_path):
    first, second = hosts
    process = batch()
    until(process, tmp_path, 50)
    second.process.kill()
    second.process.wait()
    until(process, tmp_path, 70)
    second.start()  # it may come back before the end, or not
    out, errors = process.communicate(timeout=600)
    second.wait()
    assert process.returncode == 1, out + errors
    assert "does not answer" in errors

    wanted = {(f"shelf_{n:02}.safetensors", f"family_{t}.safetensors") for n in range(COUNT) for t in "bc"}
    done, failed = events(tmp_path, "done"), events(tmp_path, "failed")
    ended = pairs(done) + pairs(failed)
    assert len(ended) == len(set(ended)) == 120 and set(ended) == wanted, "each once, none lost"
    assert {lora for lora, _ in pairs(failed)} == {BROKEN} and len(failed) == 2
    assert "118 of 120 done, 2 failed" in out
    assert "Load LoRA (node lora):" in out and out.count(BROKEN) >= 2
    assert {event["server"] for event in done} == {f"http://127.0.0.1:{h.port}" for h in hosts}
    for event in done:
        kinds = sorted(Path(name).suffix for name in event["files"])
        assert kinds.count(".png") >= 1 and kinds.count(".txt") >= 1
        assert all((tmp_path / "out" / name).stat().st_size > 20 for name in event["files"])
    files = [name for event in done for name in event["files"]]
    assert len(set(files)) == len(files)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*files, "manifest.jsonl"}

    # The file is repaired: a second call does these two prompts and no other.
    for h in hosts:
        loras = h.models / "loras"
        (loras / BROKEN).write_bytes((loras / "shelf_18.safetensors").read_bytes())
    queued = len(events(tmp_path, "queued"))
    missing = {event["job"] for event in failed}
    process = batch()
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, out + errors
    assert "120 of 120 done (118 before), 0 failed" in out
    again = {event["job"] for event in events(tmp_path, "queued")[queued:]}
    assert again == missing, "an idle server may take a waiting prompt over, but nothing else is queued"
    assert set(pairs(events(tmp_path, "done"))) == wanted and len(events(tmp_path, "done")) == 120


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a POSIX thing")
def test_interrupted_it_takes_back_its_own_prompts_only_and_goes_on_later(hosts, batch, tmp_path):
    first, second = hosts
    process = batch("--ahead", "6", values="shelf_0*.safetensors")
    until(process, tmp_path, 3)
    stranger = first.post("/prompt", {"prompt": GRAPH})["prompt_id"]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "Interrupted" in errors and "Traceback" not in errors
    ours = {event["prompt_id"] for event in events(tmp_path, "queued")}
    for h in hosts:
        assert not ours & {item[1] for item in json.loads(h.get("/queue"))["queue_pending"]}
    end = time.monotonic() + 300
    while stranger not in json.loads(first.get(f"/history/{stranger}")):
        assert time.monotonic() < end, "another user's prompt was taken out of the queue"
        time.sleep(0.1)
    process = batch(values="shelf_0*.safetensors")
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, out + errors
    ended = pairs(events(tmp_path, "done"))
    assert len(ended) == len(set(ended)) == 20
