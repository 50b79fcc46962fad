"""One ComfyUI over HTTP and its web socket: what the batch asks of it, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import quote, urlsplit

import httpx
import websockets
from websockets.asyncio.client import connect

from ..errors import GraftError, SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SLOW, FAST = 60.0, 5.0  # seconds: a busy server answers late, a missing one does not connect


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
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"--server {text}: not an address", hint="Write for example http://127.0.0.1:8188.")
    return url.rstrip("/")


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
        try:
            stats = answer.json() if answer.status_code == 200 else None
        except ValueError:
            stats = None
        if answer.status_code in (502, 503, 504):
            raise Unreachable(f"{self.url} answers with status {answer.status_code}")
        if not isinstance(stats, dict) or "comfyui_version" not in (stats.get("system") or {}):
            raise Foreign(
                f"what answers at {self.url} is not ComfyUI (status {answer.status_code})",
                hint="Give the address that the browser shows when ComfyUI is open.",
            )

    async def classes(self, names: list[str]) -> dict[str, dict]:
        """``/object_info`` of those of the classes that the server has."""
        found: dict[str, dict] = {}
        for name in names:
            answer = await self._ask("GET", "/object_info/" + quote(name, safe=""))
            found |= answer.json() if answer.status_code == 200 else {}
        return found

    async def submit(self, prompt: dict, number: str) -> str:
        """Queue a prompt under an id of ours; the id it has got (an old host chooses its own).

        Raises:
            Refused: with the server's words; nothing of the prompt runs.
            Unreachable: it may or may not have been queued.
        """
        body = {"prompt": prompt, "client_id": self.client, "prompt_id": number}
        answer = await self._ask("POST", "/prompt", body)
        try:
            reply = answer.json()
        except ValueError:
            reply = {}
        if answer.status_code >= 500 and not reply.get("error"):
            raise Unreachable(f"{self.url} answers with status {answer.status_code}")
        if answer.status_code != 200 or reply.get("node_errors"):
            if answer.status_code == 200:  # some outputs are fine and would run: a result with holes
                await self.cancel([reply["prompt_id"]])
            raise Refused(refusal(reply, prompt) or f"the server answers with status {answer.status_code}")
        return reply["prompt_id"]

    async def queue(self) -> tuple[set[str], set[str]]:
        """Ids of the prompts that run and that wait, other people's too."""
        queue = await self._json("/queue")
        return tuple({item[1] for item in queue.get(key, [])} for key in ("queue_running", "queue_pending"))

    async def record(self, number: str) -> dict | None:
        """What the history says of a finished prompt, or None."""
        return (await self._json(f"/history/{number}")).get(number)

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
        except httpx.TransportError as error:
            raise self._gone(error) from error

    async def messages(self) -> AsyncIterator[dict]:
        """The server's messages to us until the connection ends; pictures of previews are left out."""
        url = "ws" + self.url.removeprefix("http") + f"/ws?clientId={self.client}"
        try:
            async with connect(
                url,
                max_size=None,
                open_timeout=FAST,
                close_timeout=1,
                ping_timeout=SLOW,
                proxy=None if self._near else True,
            ) as socket:
                async for message in socket:
                    if isinstance(message, str):
                        content = json.loads(message)
                        if isinstance(content, dict):
                            yield content
        except (OSError, TimeoutError, ValueError, websockets.WebSocketException):
            return

    async def _ask(self, method: str, path: str, body: dict | None = None) -> httpx.Response:
        try:
            return await self._http.request(method, path, json=body)
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise self._gone(error) from error

    async def _json(self, path: str) -> dict:
        answer = await self._ask("GET", path)
        try:
            content = answer.json() if answer.status_code == 200 else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Unreachable(f"{self.url}{path} answers with status {answer.status_code} and nothing ComfyUI says")
        return content

    def _gone(self, error: Exception) -> Unreachable:
        why = "nothing listens there" if isinstance(error, httpx.ConnectError) else str(error) or type(error).__name__
        return Unreachable(f"{self.url} does not answer: {why}")


def refusal(reply: dict, prompt: dict) -> str:
    """The server's reasons in one line."""
    error = reply.get("error") or {}
    if isinstance(error, str):
        return error
    parts = [error.get("message", "")] if not reply.get("node_errors") else []
    parts += [error.get("details", "")] if not reply.get("node_errors") and error.get("details") else []
    for node, wrong in (reply.get("node_errors") or {}).items():
        title = (prompt.get(node, {}).get("_meta") or {}).get("title") or wrong.get("class_type", "")
        for reason in wrong.get("errors", []):
            parts.append(f"{title} (node {node}): {reason.get('message', '')}: {reason.get('details', '')[:200]}")
    return "; ".join(dict.fromkeys(filter(None, parts)))


def failure(record: dict, prompt: dict) -> str | None:
    """Why a prompt of the history has no result, in the node's own words; None when it has one."""
    status = record.get("status") or {}
    if status.get("status_str", "success") == "success":
        return None
    for kind, data in status.get("messages") or []:
        if kind == "execution_error":
            node = str(data.get("node_id"))
            title = (prompt.get(node, {}).get("_meta") or {}).get("title") or data.get("node_type", "")
            words = str(data.get("exception_message") or data.get("exception_type") or "an error without words")
            return f"{title} (node {node}): {words.strip()}"
        if kind == "execution_interrupted":
            return "interrupted on the server"
    return "it failed without saying why"
