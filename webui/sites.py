"""Who may start something: this page and scripts, never a page of another site in the user's browser."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

SAFE = ("same-origin", "none")  # values of Sec-Fetch-Site: from this page, or typed in by the user
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def cross_site(headers: Mapping[str, str], origins: Collection[str] = ()) -> bool:
    """Whether a browser says that another site asks. Programs that are no browsers say nothing, and may.

    headers: with names in lower case. origins: addresses (``http://host:port``) that may.
    """
    origin = headers.get("origin", "")
    if origin in origins and origin:
        return False
    site = headers.get("sec-fetch-site", "")
    if site and site not in SAFE:
        return True
    return bool(origin) and _address(origin) != headers.get("host", "").lower()


def _address(origin: str) -> str:
    """host:port as the Host header has it; "" for what is none, as "null"."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


class SameSite:
    """ASGI: what would change something is refused when another site asks, and everything under a strange Host name.

    A name that an attacker's own server resolves to this machine would otherwise pass for the page's own.

    hosts: names (without port) under which the page is known; none for any.
    """

    def __init__(self, app, hosts: Collection[str] = ()):
        self.app, self.hosts = app, {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope, receive, send):
        if scope["type"] in ("http", "websocket"):
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
            known = not self.hosts or _name(headers.get("host", "")) in self.hosts
            if not known or (not reads and cross_site(headers)):
                return await _refuse(scope["type"], send)
        return await self.app(scope, receive, send)


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def _refuse(kind: str, send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Another site, or an unknown name of this machine."})
