"""A real ComfyUI, started for the tests in a folder of its own, driven over HTTP and its web socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import websocket

PACK_NAME = "LoRA-Graft"
FOLDERS = ("checkpoints", "diffusion_models", "text_encoders", "vae", "loras")
FINAL = {"execution_success", "execution_error", "execution_interrupted"}


@dataclass
class Event:
    """One message of the web socket: seconds since the prompt was queued, its type and its data."""

    at: float
    type: str
    data: dict


@dataclass
class Result:
    """What became of one prompt."""

    status: str  # "success", "error", "interrupted" or "rejected" (refused before anything ran)
    outputs: dict = field(default_factory=dict)  # node id → its ui dictionary
    error: dict = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def message(self) -> str:
        """The words a user reads."""
        return self.error.get("exception_message", "") or json.dumps(self.error)

    def text(self, node: str) -> str:
        """The text that a node showed."""
        return "\n".join(self.outputs[node]["text"])

    def progress(self, node: str) -> list[tuple[float, float, float]]:
        """(seconds, value, max) of every progress message of a node."""
        return [
            (e.at, e.data["value"], e.data["max"])
            for e in self.events
            if e.type == "progress" and str(e.data.get("node")) == node
        ]

    def ran(self) -> set[str]:
        """The nodes that were executed, cached ones left out."""
        return {e.data["node"] for e in self.events if e.type == "executing" and e.data.get("node")}


class Host:
    """ComfyUI on the CPU with this pack and the tests' probe nodes, and nothing else of the user's.

    Args:
        folder, python: the host and its interpreter.
        base: an empty folder; models, outputs, settings and the log go there.
        packs: name in custom_nodes → folder.
    """

    def __init__(self, folder: Path, python: Path, base: Path, packs: dict[str, Path]):
        self.folder, self.python, self.base = folder, python, base
        for name in (*(f"models/{f}" for f in FOLDERS), "custom_nodes", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        for name, target in packs.items():
            (base / "custom_nodes" / name).symlink_to(target, target_is_directory=True)
        self.models, self.log_file = base / "models", base / "comfyui.log"
        self.port, self.process, self.client = _free_port(), None, uuid.uuid4().hex
        self.greeting = ""  # the log up to the first answer

    def start(self) -> None:
        """Start the process; :meth:`wait` tells when it answers."""
        flags = ["--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        flags += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        env["LORA_GRAFT_CACHE"] = str(self.base / "cache")
        env.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other crawl on a busy machine
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.python), "-s", "main.py", *flags],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float = 600) -> None:
        """Until the server answers.

        Raises:
            RuntimeError: it ended or did not answer in time; the end of its log is in the message.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                self.greeting = self.log()
                return
            time.sleep(0.2)
        self.stop()
        raise RuntimeError("ComfyUI did not start:\n" + self.log()[-4000:])

    def stop(self) -> None:
        """End the process that :meth:`start` began, and no other."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return answer.read()

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def run(self, graph: dict, *, seconds: float = 120, on_event: Callable[[Event], None] | None = None) -> Result:
        """Queue a graph in API form and wait for its end."""
        ws = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}", timeout=5)
        try:
            began = time.monotonic()
            try:
                prompt = self.post("/prompt", {"prompt": graph, "client_id": self.client})["prompt_id"]
            except urllib.error.HTTPError as refusal:
                return Result("rejected", error=json.loads(refusal.read()))
            events, last = [], None
            while last is None:
                if time.monotonic() - began > seconds:
                    self.interrupt()
                    raise TimeoutError(f"the prompt took longer than {seconds} s:\n" + self.log()[-3000:])
                if self.process.poll() is not None:
                    raise RuntimeError("ComfyUI ended:\n" + self.log()[-3000:])
                with contextlib.suppress(websocket.WebSocketTimeoutException):
                    message = ws.recv()
                    if not isinstance(message, str):
                        continue  # previews
                    message = json.loads(message)
                    data = message.get("data") or {}
                    if data.get("prompt_id", prompt) != prompt:
                        continue
                    event = Event(time.monotonic() - began, message["type"], data)
                    events.append(event)
                    if on_event:
                        on_event(event)
                    last = event if event.type in FINAL else None
        finally:
            ws.close()
        status = last.type.removeprefix("execution_")
        outputs = self._outputs(prompt) if status == "success" else {}
        return Result(status, outputs, last.data if status != "success" else {}, events, last.at)

    def _outputs(self, prompt: str) -> dict:
        for _ in range(100):  # the history is written a moment after the last message
            history = json.loads(self.get(f"/history/{prompt}"))
            if prompt in history:
                return history[prompt]["outputs"]
            time.sleep(0.05)
        raise RuntimeError(f"no history for prompt {prompt}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
