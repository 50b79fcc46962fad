"""The routes for scripts: what they answer, what they refuse, and that the table documents them."""

from __future__ import annotations

import base64
import json

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lora_graft.webui import api
from lora_graft.webui.fields import JOBS
from lora_graft.webui.sites import SameSite

ROOT = api.ROOT
JSON = {"Content-Type": "application/json"}
RESIZE = json.dumps({"lora": "frame", "amount": 2, "output": "small"})
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def app(desk):
    app = FastAPI()
    api.register(app, desk)
    return app


@pytest.fixture
def client(app):
    return TestClient(app)


def start(client, body=RESIZE, **headers):
    return client.post(f"{ROOT}/jobs/resize", content=body, headers={**JSON, **headers})


def test_a_script_lists_starts_and_reads(client, desk, host):
    assert client.get(f"{ROOT}/bases").json()["bases"] == [f"base_{letter}.safetensors" for letter in "abs"]
    assert client.get(f"{ROOT}/loras").json() == {"loras": ["frame", "styles/slant"]}
    answer = start(client)
    assert answer.status_code == 200, answer.text
    number = answer.json()["id"]
    desk.queue.wait(number, 600)
    job = client.get(f"{ROOT}/jobs/{number}").json()
    assert job["state"] == "done" and job["lora"] == "small" and job["report"]["job"] == "resize"
    assert [one["id"] for one in client.get(f"{ROOT}/jobs").json()["jobs"]] == [number]
    assert (host.lora_folder / "small.safetensors").is_file()


def test_a_script_stops_a_job(client, desk, host, monkeypatch):
    with_lock = host.working
    import threading

    lock = threading.Lock()

    def working(title):
        from contextlib import ExitStack

        stack = ExitStack()
        stack.enter_context(lock)
        working = stack.enter_context(with_lock(title))

        class Both:
            def __enter__(self):
                return working

            def __exit__(self, *problem):
                stack.close()

        return Both()

    monkeypatch.setattr(host, "working", working)
    with lock:
        number = start(client).json()["id"]
        assert client.post(f"{ROOT}/jobs/{number}/stop", content="{}", headers=JSON).json()["state"] == "stopped"
    assert not (host.lora_folder / "small.safetensors").exists()


def test_what_is_wrong_is_said(client):
    answer = start(client, json.dumps({"lora": "frame", "amount": -1}))
    assert answer.status_code == 422 and "amount cannot be -1" in answer.json()["detail"]
    answer = start(client, json.dumps({"lora": "../frame"}))
    assert answer.status_code == 422 and "there is no LoRA" in answer.json()["detail"]
    for body in ("[" * 5000, "nope", b"\xff", "[]", '"text"', "3"):
        assert start(client, body).status_code == 422, body[:20]
    assert start(client, " " * (api.LARGEST + 1)).status_code == 413
    assert client.post(f"{ROOT}/jobs/bake", content="{}", headers=JSON).status_code in (404, 405, 422)
    for path in ("/jobs/99", "/jobs/99/stop"):
        method = client.post if path.endswith("stop") else client.get
        how = {"content": "{}", "headers": JSON} if path.endswith("stop") else {}
        assert method(ROOT + path, **how).status_code == 404
    assert client.get(f"{ROOT}/jobs/..%2f..%2fetc").status_code in (404, 422)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver:81"},
        {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://[broken"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_starts_and_stops_nothing(client, desk, headers):
    assert start(client, **headers).status_code in (403, 415)
    stop = client.post(f"{ROOT}/jobs/1/stop", content="{}", headers={**JSON, **headers})
    assert stop.status_code in (403, 415)
    assert desk.queue.jobs() == []


def test_the_page_itself_and_origins_that_the_host_allows_may(client, desk, monkeypatch):
    assert start(client, Origin="http://testserver", **{"Sec-Fetch-Site": "same-origin"}).status_code == 200
    monkeypatch.setattr(desk.host, "origins", ("https://friend.example",))
    answer = start(client, RESIZE.replace("small", "s2"), Origin="https://friend.example")
    assert answer.status_code == 200
    for job in desk.queue.jobs():
        desk.queue.wait(job.number, 600)


def test_where_a_password_is_asked_for_nothing_is_told_without_it(desk):
    app = FastAPI()
    word = "Basic " + base64.b64encode(b"me:secret").decode()
    api.register(app, desk, lambda request: request.headers.get("authorization") == word)
    client = TestClient(app)
    assert client.get(f"{ROOT}/loras").status_code == 401 and start(client).status_code == 401
    assert client.get(f"{ROOT}/loras", headers={"Authorization": word}).status_code == 200
    assert desk.queue.jobs() == []


def test_alone_a_strange_host_name_is_refused(app):
    """A name of an attacker's own that resolves to this machine would make his page the same site."""
    client = TestClient(SameSite(app, ("127.0.0.1", "localhost", "::1")))
    for name in ("127.0.0.1:7860", "localhost", "[::1]:7860"):
        assert client.get(f"{ROOT}/loras", headers={"Host": name}).status_code == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "evil.example:7860", "", "[broken"):
        assert client.get(f"{ROOT}/loras", headers={"Host": name}).status_code == 403, name
    answer = client.post("/queue/join", headers={"Host": "localhost:1", "Origin": "http://evil.example"})
    assert answer.status_code == 403, "Gradio's own routes, too"


def test_the_documentation_is_the_table(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {f"{ROOT}/jobs/{kind}" for kind in api.offered()} < set(paths)
    for kind in api.offered():
        body = paths[f"{ROOT}/jobs/{kind}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert list(body["properties"]) == [field.name for field in JOBS[kind]]
        for field in JOBS[kind]:
            said = body["properties"][field.name]
            assert said["title"] == field.label and said["description"] == field.help
            assert said.get("enum", []) == list(field.choices)
            assert (field.name in body["required"]) == field.needed
            if field.default not in (None, ()) and not field.needed:
                assert said["default"] == field.default
