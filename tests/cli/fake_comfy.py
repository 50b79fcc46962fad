"""A ComfyUI in miniature behind httpx, with an event loop's time for its clock: for what a real one seldom does."""

from __future__ import annotations

import asyncio
import json
import selectors
import uuid

import httpx
from lora_graft.batch.server import Server

INFO = {
    "Loader": {
        "display_name": "Load LoRA",
        "input": {
            "required": {
                "lora_name": [["a.safetensors", "b.safetensors", "sub/c.safetensors"], {}],
                "model": ["MODEL", {}],
            }
        },
    },
    "Sampler": {
        "display_name": "KSampler",
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": 1000}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 100.0}],
                "sampler_name": ["COMBO", {"options": ["euler", "heun"]}],
                "tiled": ["BOOLEAN", {"default": False}],
            }
        },
    },
    "Text": {"display_name": "Prompt", "input": {"required": {"text": ["STRING", {"multiline": True}]}}},
    "Save": {"display_name": "Save Image", "output_node": True, "input": {"required": {"images": ["IMAGE", {}]}}},
}
GRAPH = {
    "1": {"class_type": "Loader", "_meta": {"title": "Load LoRA"}, "inputs": {"lora_name": "a.safetensors"}},
    "2": {
        "class_type": "Sampler",
        "_meta": {"title": "Draw v1.5"},
        "inputs": {"seed": 0, "cfg": 3.0, "sampler_name": "euler", "tiled": False, "extra.rank": 4},
    },
    "3": {"class_type": "Text", "_meta": {"title": "Good"}, "inputs": {"text": "x"}},
    "4": {"class_type": "Text", "_meta": {"title": "Bad"}, "inputs": {"text": "y"}},
    "5": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
}


class Clock(selectors.DefaultSelector):
    """An event loop's selector whose waiting takes no time: the loop's clock jumps to what comes next.

    What a busy machine does to real seconds changes nothing in the order of events.
    """

    now = 0.0

    def select(self, timeout=None):
        ready = super().select(0 if timeout else timeout)
        if not ready and timeout:
            self.now += timeout
        return ready


def run(work):
    """``asyncio.run`` in the time of a :class:`Clock`."""
    clock = Clock()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now
    try:
        return loop.run_until_complete(work)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class FakeComfy:
    """seconds: how long a prompt runs; fails, refuses, holes, kills: seeds whose prompt fails, is refused, is taken
    with one output missing, brings the server down; own_ids: choose prompt ids itself, as old hosts do; takes: seconds
    until a prompt that was sent is in the queue."""

    def __init__(self, url: str, seconds: float = 0.005, **odd):
        self.url, self.seconds, self.odd = url, seconds, odd
        self.queue, self.running, self.history = [], None, {}
        self.down = False  # nothing is done and nothing answers
        self.unplugged = False  # it works on, but nothing answers
        self.ran: list[int] = []
        self.longest = 0
        self.cancelled: list[str] = []
        self._listeners: list[asyncio.Queue] = []

    def restart(self) -> None:
        """Everything in memory is gone."""
        self.queue, self.running, self.history = [], None, {}
        self.tell(None)

    def tell(self, message) -> None:
        for listener in self._listeners:
            listener.put_nowait(message)

    async def work(self) -> None:
        """What the host's own thread does."""
        while True:
            await asyncio.sleep(0.001)
            if self.down or not self.queue:
                continue
            number, prompt = self.running = self.queue.pop(0)
            seed = prompt["2"]["inputs"]["seed"]
            self.tell({"type": "execution_start", "data": {"prompt_id": number}})
            await asyncio.sleep(self.seconds)
            if self.running is None or self.running[0] != number:
                continue
            if seed in self.odd.get("kills", ()):
                self.restart()
                continue
            self.ran.append(seed)
            self.running = None
            self.history[number] = self._record(seed)
            self.tell({"type": "executing", "data": {"node": None, "prompt_id": number}})

    def _record(self, seed: int) -> dict:
        if seed in self.odd.get("fails", ()):
            error = {"node_id": "2", "node_type": "Sampler", "exception_message": f"seed {seed} hurts\n"}
            return {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_error", error]]}}
        place = {"filename": f"x_{seed}.png", "subfolder": "", "type": "output"}
        return {"outputs": {"5": {"images": [place]}}, "status": {"status_str": "success", "messages": []}}

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if self.down or self.unplugged:
            raise httpx.ConnectError("refused")
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path == "/system_stats":
            return httpx.Response(200, json={"system": {"comfyui_version": "0.0"}})
        if path.startswith("/object_info/"):
            kind = path.rsplit("/", 1)[1]
            return httpx.Response(200, json={kind: INFO[kind]} if kind in INFO else {})
        if path == "/prompt":
            await asyncio.sleep(self.odd.get("takes", 0))
            return self._take(body)
        if path == "/queue" and request.method == "POST":
            self.cancelled += body["delete"]
            self.queue = [item for item in self.queue if item[0] not in body["delete"]]
            return httpx.Response(200)
        if path == "/queue":
            running = [[0, self.running[0]]] if self.running else []
            queues = {"queue_running": running, "queue_pending": [[0, number] for number, _ in self.queue]}
            return httpx.Response(200, json=queues)
        if path.startswith("/history/"):
            number = path.rsplit("/", 1)[1]
            return httpx.Response(200, json={number: self.history[number]} if number in self.history else {})
        if path == "/view":
            name = request.url.params["filename"]
            if name in self.odd.get("lost_files", ()):
                return httpx.Response(404)
            return httpx.Response(200, content=f"{self.url} {name}".encode())
        if path == "/interrupt":
            return httpx.Response(200)
        return httpx.Response(404)

    def _take(self, body: dict) -> httpx.Response:
        seed = body["prompt"]["2"]["inputs"]["seed"]
        reason = {"message": "Value not in list", "details": f"seed {seed}"}
        wrong = {"2": {"class_type": "Sampler", "errors": [reason]}}
        if seed in self.odd.get("refuses", ()):
            return httpx.Response(400, json={"error": {"message": "failed validation"}, "node_errors": wrong})
        number = str(uuid.uuid4()) if self.odd.get("own_ids") else body["prompt_id"]
        self.queue.append((number, body["prompt"]))
        self.longest = max(self.longest, len(self.queue) + bool(self.running))
        holes = wrong if seed in self.odd.get("holes", ()) else {}
        return httpx.Response(200, json={"prompt_id": number, "node_errors": holes})

    def server(self, url: str, client: str) -> Server:
        """A client of this server, as the batch opens one."""
        fake = self

        class Wired(Server):
            async def messages(self):
                listener: asyncio.Queue = asyncio.Queue()
                fake._listeners.append(listener)
                while (message := await listener.get()) is not None:
                    yield message

        server = Wired(url, client)
        server._http = httpx.AsyncClient(base_url=url, transport=httpx.MockTransport(self.answer))
        return server
