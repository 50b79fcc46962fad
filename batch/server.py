"""One ComfyUI over HTTP and its web socket: what the batch asks of it, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import httpx
import websockets
from websockets.asyncio.client import connect

from ..errors import GraftError, SettingsError
from ..untrusted import parse_json, real_text

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SLOW, FAST = 60.0, 5.0  # seconds: a busy server answers late, a missing one does not connect
LONGEST = 300.0  # seconds for all of an answer
MOST = 16 << 20  # bytes of an answer or a message; the list of a menu with 100,000 files has 8 million


class Unreachable(GraftError):
    """No answer, or not one of a ComfyUI; another try later may do."""


class Foreign(GraftError):
    """Something answers that is not ComfyUI."""


class Refused(GraftError):
    """The server does not take this prompt; the message is the server's own."""


def address(text: str) -> str:
    """``http://host:port`` from what a user types.

    Raises:
        SettingsError: not an address.
    """
    url = text.strip()
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        good = (
            real_text(url) == url
            and parts.scheme in ("http", "https")
            and parts.hostname
            and (parts.port is None or parts.port)
        )
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"--server {text}: not an address", hint="Write for example http://127.0.0.1:8188.")
    return url.rstrip("/")


@dataclass(frozen=True)
class Answer:
    """What a server answered, read to its end."""

    status: int
    body: bytes

    def data(self) -> object:
        """The JSON in it; None when there is none."""
        try:
            return parse_json(self.body)
        except ValueError:
            return None

    def table(self) -> dict:
        """The JSON object in it; empty when there is none."""
        data = self.data()
        return data if isinstance(data, dict) else {}


class Server:
    """``async with`` opens and closes the connections. client: the name under which it sends us its messages."""

    def __init__(self, url: str, client: str):
        self.url, self.client = url, client
        self.name = urlsplit(url).netloc
        self._near = urlsplit(url).hostname in LOOPBACK
        self._http = httpx.AsyncClient(
            base_url=url, timeout=httpx.Timeout(SLOW, connect=FAST), trust_env=not self._near
        )  # a company's proxy must not stand between us and this very machine

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *error) -> None:
        await self._http.aclose()

    async def check(self) -> None:
        """Whether a ComfyUI answers.

        Raises:
            Unreachable, Foreign
        """
        answer = await self._ask("GET", "/system_stats")
        if answer.status in (502, 503, 504):
            raise Unreachable(f"{self.url} answers with status {answer.status}")
        system = answer.table().get("system") if answer.status == 200 else None
        if not isinstance(system, dict) or "comfyui_version" not in system:
            raise Foreign(
                f"what answers at {self.url} is not ComfyUI (status {answer.status})",
                hint="Give the address that the browser shows when ComfyUI is open.",
            )

    async def classes(self, names: list[str]) -> dict[str, dict]:
        """``/object_info`` of those of the classes that the server has."""
        found: dict[str, dict] = {}
        for name in names:
            answer = await self._ask("GET", "/object_info/" + quote(name, safe="", errors="replace"))
            known = answer.table() if answer.status == 200 else {}
            found |= {kind: entry for kind, entry in known.items() if isinstance(entry, dict)}
        return found

    async def submit(self, prompt: dict, number: str) -> str:
        """Queue a prompt under an id of ours; the id it has got (an old host chooses its own).

        Raises:
            Refused: with the server's words; nothing of the prompt runs.
            Unreachable: it may or may not have been queued.
        """
        body = {"prompt": prompt, "client_id": self.client, "prompt_id": number}
        answer = await self._ask("POST", "/prompt", body)
        reply = answer.table()
        given = reply.get("prompt_id") or ""
        if answer.status >= 500 and not reply.get("error"):
            raise Unreachable(f"{self.url} answers with status {answer.status}")
        if answer.status == 200 and not (isinstance(given, str) and given):
            raise Unreachable(f"{self.url} takes a prompt and does not say under which id")
        if answer.status != 200 or reply.get("node_errors"):
            if answer.status == 200:  # some outputs are fine and would run: a result with holes
                await self.cancel([given])
            raise Refused(refusal(reply, prompt) or f"the server answers with status {answer.status}")
        return given

    async def queue(self) -> tuple[set[str], set[str]]:
        """Ids of the prompts that run and that wait, other people's too."""
        queue = await self._json("/queue")
        return _ids(queue.get("queue_running")), _ids(queue.get("queue_pending"))

    async def record(self, number: str) -> dict | None:
        """What the history says of a finished prompt, or None."""
        record = (await self._json(f"/history/{quote(number, safe='')}")).get(number)
        if record is not None and not isinstance(record, dict):
            raise Unreachable(f"{self.url}/history answers with nothing ComfyUI says")
        return record

    async def cancel(self, numbers: list[str], *, running: bool = True) -> None:
        """Take prompts of ours out of the queue, and interrupt those that run unless told not to."""
        await self._ask("POST", "/queue", {"delete": numbers})
        if running:
            going, _ = await self.queue()
            for number in going & set(numbers):
                await self._ask("POST", "/interrupt", {"prompt_id": number})

    async def file(self, output: dict) -> AsyncIterator[bytes]:
        """The bytes of an output file, in pieces.

        Raises:
            Refused: the server does not have it any more.
        """
        query = {key: str(output.get(key, "")) for key in ("filename", "subfolder", "type")}
        try:
            async with self._http.stream("GET", "/view", params=query) as answer:
                if answer.status_code != 200:
                    raise Refused(f"the result {query['filename']} cannot be fetched: status {answer.status_code}")
                async for piece in answer.aiter_bytes():
                    yield piece
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self._gone(error) from error

    async def messages(self) -> AsyncIterator[dict]:
        """The server's messages to us until the connection ends; pictures of previews are left out."""
        url = "ws" + self.url.removeprefix("http") + f"/ws?clientId={self.client}"
        try:
            async with connect(
                url,
                max_size=MOST,
                open_timeout=FAST,
                close_timeout=1,
                ping_timeout=SLOW,
                proxy=None if self._near else True,
            ) as socket:
                async for message in socket:
                    if isinstance(message, str):
                        content = parse_json(message)
                        if isinstance(content, dict):
                            yield content
        except (OSError, TimeoutError, ValueError, websockets.WebSocketException):
            return

    async def _ask(self, method: str, path: str, body: dict | None = None) -> Answer:
        try:
            return await asyncio.wait_for(self._read(method, path, body), LONGEST)
        except asyncio.TimeoutError:
            raise Unreachable(f"{self.url}{path} does not come to an end") from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self._gone(error) from error

    async def _read(self, method: str, path: str, body: dict | None) -> Answer:
        """A whole answer, as long as it is of a length that ComfyUI's have."""
        async with self._http.stream(method, path, json=body) as answer:
            data = bytearray()
            async for piece in answer.aiter_bytes():
                data += piece
                if len(data) > MOST:
                    raise Unreachable(f"{self.url}{path} answers with more than {MOST >> 20} MB")
            return Answer(answer.status_code, bytes(data))

    async def _json(self, path: str) -> dict:
        answer = await self._ask("GET", path)
        content = answer.data() if answer.status == 200 else None
        if not isinstance(content, dict):
            raise Unreachable(f"{self.url}{path} answers with status {answer.status} and nothing ComfyUI says")
        return content

    def _gone(self, error: Exception) -> Unreachable:
        why = "nothing listens there" if isinstance(error, httpx.ConnectError) else str(error) or type(error).__name__
        return Unreachable(f"{self.url} does not answer: {why}")


def refusal(reply: dict, prompt: dict) -> str:
    """The server's reasons in one line."""
    error = reply.get("error")
    if isinstance(error, str) and error:
        return error
    wrong_nodes = _table(reply.get("node_errors"))
    parts = [] if wrong_nodes else [_words(_table(error).get("message")), _words(_table(error).get("details"))]
    for node, wrong in wrong_nodes.items():
        wrong = _table(wrong)
        title = _title(prompt, node) or _words(wrong.get("class_type"))
        for reason in _list(wrong.get("errors")):
            message, details = (_words(_table(reason).get(name)) for name in ("message", "details"))
            parts.append(f"{title} (node {node}): {message}: {details[:200]}")
    return "; ".join(dict.fromkeys(filter(None, parts)))


def failure(record: dict, prompt: dict) -> str | None:
    """Why a prompt of the history has no result, in the node's own words; None when it has one."""
    status = _table(record.get("status"))
    if status.get("status_str", "success") == "success":
        return None
    for kind, data in messages_of(record):
        if kind == "execution_error":
            node = str(data.get("node_id"))
            title = _title(prompt, node) or _words(data.get("node_type"))
            words = _words(data.get("exception_message") or data.get("exception_type")) or "an error without words"
            return f"{title} (node {node}): {words.strip()}"
        if kind == "execution_interrupted":
            return "interrupted on the server"
    return "it failed without saying why"


def messages_of(record: dict) -> list[tuple[str, dict]]:
    """(kind, data) of the messages in a record of the history."""
    pairs = [pair for pair in _list(_table(record.get("status")).get("messages")) if len(_list(pair)) == 2]
    return [(str(kind), data) for kind, data in pairs if isinstance(data, dict)]


def _title(prompt: dict, node: str) -> str:
    return _words(_table(_table(prompt.get(node)).get("_meta")).get("title"))


def _ids(entries: object) -> set[str]:
    """Prompt ids in a queue, whose items are [number, id, …]."""
    return {item[1] for item in _list(entries) if len(_list(item)) > 1 and isinstance(item[1], str)}


def _table(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _words(value: object) -> str:
    return "" if value is None else str(value)
