"""A ComfyUI that lies, dawdles, never ends and sends garbage, behind httpx; after a while it is gone for good."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from pathlib import Path
from random import Random

import hostile
import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
from fake_comfy import FakeComfy

PATIENCE = 400  # requests; then it is down, so that every batch ends


class Strange(FakeComfy):
    """share: of the answers that are not what they should be."""

    def __init__(self, url: str, random: Random, share: float):
        super().__init__(url)
        self.random, self.share, self.asked = random, share, 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked > PATIENCE:
            self.down = True
        true = await super().answer(request)
        random = self.random
        if random.random() > self.share:
            return true
        kind = random.randrange(11)
        if kind == 0:
            await asyncio.sleep(random.choice((1, 50, 70, 1e6)))
            raise random.choice((httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectTimeout))(
                "ZZ"
            )
        if kind == 1:
            return httpx.Response(
                random.choice((100, 204, 301, 302, 400, 401, 404, 413, 429, 500, 502, 503, 599)), content=true.content
            )
        if kind == 2:
            return httpx.Response(200, content=hostile.bitten(random, true.content or b"{}"))
        if kind == 3:
            return httpx.Response(200, content=hostile.deep(random).encode())
        if kind == 4:
            headers = {
                random.choice(("content-encoding", "content-type")): random.choice(
                    ("gzip", "br", "deflate", "text/html; charset=ZZ", "text/plain; charset=utf-16")
                )
            }
            return httpx.Response(200, stream=_Pieces([true.content or b"ZZ"]), headers=headers)
        if kind == 5:
            return httpx.Response(true.status_code, stream=_Pieces([true.content[:1]] * 20, seconds=30))
        if kind == 6 and random.random() < 0.1:
            return httpx.Response(200, stream=_Endless(random.choice((b"[[],", b" ", b"a" * 65536, b'{"a":'))))
        if kind == 7:
            return httpx.Response(
                302,
                headers={
                    "location": random.choice(
                        (request.url.path, "http://ZZ/", "ftp://ZZ", "ZZ\x1b", "//", "http://[ZZ")
                    )
                },
            )
        if kind == 8:
            return httpx.Response(
                200, content=hostile.written(random, hostile.value(random)).encode("utf-8", "replace")
            )
        try:
            data = json.loads(true.content)
        except ValueError:
            return true
        odd = hostile.changed(random, data, random.choice((0.3, 1.0)))
        return httpx.Response(true.status_code, content=hostile.written(random, odd).encode("utf-8", "replace"))

    async def work(self) -> None:
        """What the stand-in's own thread does, looking seldom: its looks are all that costs time here."""
        while True:
            await asyncio.sleep(1)
            while self.queue and not self.down:
                number, prompt = self.running = self.queue.pop(0)
                self.tell({"type": "execution_start", "data": {"prompt_id": number}})
                await asyncio.sleep(self.seconds)
                seed = prompt["2"]["inputs"]["seed"]
                self.running = None
                self.history[number] = self._record(seed)
                self.tell({"type": "progress", "data": {"prompt_id": number, "value": 1, "max": 4}})
                self.tell({"type": "executing", "data": {"node": None, "prompt_id": number}})

    def _take(self, body: dict) -> httpx.Response:
        try:
            return super()._take(body)
        except (KeyError, TypeError):  # a workflow without the node that the stand-in looks at
            return httpx.Response(400, json={"error": {"message": "no sampler"}})

    def _record(self, seed: int) -> dict:
        record = copy.deepcopy(super()._record(seed))
        random = self.random
        if random.random() < self.share:
            name = random.choice(
                (hostile.plain_text(random), "x.png" + hostile.plain_text(random), "../../../ZZ.png", "x." + "Z" * 300)
            )
            record["outputs"]["5"]["images"][0]["filename"] = name
            record["outputs"][random.choice(("5", hostile.plain_text(random)))] = {
                "text": [hostile.plain_text(random)],
                "images": record["outputs"]["5"]["images"],
            }
        if random.random() < self.share / 2:
            kind, words = hostile.plain_text(random), hostile.plain_text(random)
            data = {"node_id": "2", "node_type": kind, "exception_message": words}
            record["status"] = {"status_str": "error", "messages": [["execution_error", data]]}
        return record

    def tell(self, message) -> None:
        if message is not None and self.random.random() < self.share:
            odd = hostile.changed(self.random, message, 1.0)
            message = odd if isinstance(odd, dict) else {}  # what is no object is left out on the way
        super().tell(message)


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes], seconds: float = 0):
        self.pieces, self.seconds = pieces, seconds

    async def __aiter__(self):
        for piece in self.pieces:
            await asyncio.sleep(self.seconds)
            yield piece


class _Endless(httpx.AsyncByteStream):
    """Never stops by itself; a file of it would fill the disk, so the caller is expected to stop listening."""

    def __init__(self, piece: bytes):
        self.piece = piece * (65536 // len(piece))

    async def __aiter__(self):
        for _ in range(20_000):  # 1.3 GB: more than anyone may read
            await asyncio.sleep(0)
            yield self.piece
