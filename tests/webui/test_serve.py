"""``lora-graft ui``: what it says when something is missing, and who it answers."""

from __future__ import annotations

import importlib.util
import socket

import pytest
from lora_graft.cli.app import app
from lora_graft.errors import GraftError
from lora_graft.webui import serve
from lora_graft.webui.alone import Alone
from lora_graft.webui.desk import Desk
from typer.testing import CliRunner

GRADIO = importlib.util.find_spec("gradio") is not None
needs_gradio = pytest.mark.skipif(not GRADIO, reason="gradio is not installed")


def run(*arguments):
    return CliRunner().invoke(app, ["ui", *map(str, arguments)])


def test_without_gradio_it_says_what_to_install(folders, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    bases, loras = folders
    done = run("--bases", bases, "--loras", loras)
    assert done.exit_code == 1
    assert 'pip install "lora-graft[ui]"' in done.output and "Traceback" not in done.output


def test_a_folder_that_is_missing_is_named(folders, tmp_path):
    done = run("--bases", tmp_path / "nowhere", "--loras", folders[1])
    assert done.exit_code == 1 and "nowhere" in done.output


def test_results_go_where_they_are_wanted_and_are_listed(folders, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    host = Alone([folders[0]], [folders[1]], output)
    assert host.lora_folder == output
    (output / "new.safetensors").write_bytes(b"")
    assert list(host.loras()) == ["frame", "new", "styles/slant"]
    assert Alone([folders[0]], [folders[1]]).lora_folder == folders[1]


@needs_gradio
def test_a_port_that_is_taken_is_told(host):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(GraftError, match="cannot be used"):
            serve.serve(host, port=other.getsockname()[1], started=lambda address: None)


@needs_gradio
def test_alone_every_route_is_the_pages_own(host):
    pytest.importorskip("httpx", reason="httpx is not installed")
    from fastapi.testclient import TestClient

    with TestClient(serve.application(Desk(host)), base_url="http://127.0.0.1:1234") as client:
        page = client.get("/")
        assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
        assert client.get("/lora-graft/v1/bases").status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
        join = client.post("/gradio_api/queue/join", json={}, headers={"Origin": "http://evil.example"})
        assert join.status_code == 403
        for name in ("../loras/frame.safetensors", "/etc/passwd", str(host.lora_folder / "frame.safetensors")):
            for route in (f"/gradio_api/file={name}", f"/file={name}"):
                assert client.get(route).status_code in (403, 404), route
