"""The page alone on an address of this machine: ``lora-graft ui``."""
# pyright: reportMissingImports=false

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from importlib.util import find_spec

from ..choices import Page
from ..errors import GraftError
from .desk import Desk
from .host import Host
from .sites import LOOPBACK, SameSite

PATIENCE = 20.0  # seconds that a job has to end when the program does
# Nothing is fetched from elsewhere: Gradio's own page asks font and script servers, and reports its use.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss: data: blob:; frame-ancestors 'self'"
)


def application(desk: Desk, hosts: tuple[str, ...] = LOOPBACK):
    """The page and the API as one ASGI application.

    hosts: names under which it answers, without port; none for any.

    Raises:
        GraftError: Gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise GraftError("the page needs Gradio, which is not installed", hint='pip install "lora-graft[ui]"')
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr
    from fastapi import FastAPI

    from .api import register
    from .page import build

    app = FastAPI(title="LoRA Graft", docs_url=None, redoc_url=None)
    register(app, desk)
    app = gr.mount_gradio_app(app, build(desk), path="/")
    return SameSite(Policed(app), hosts)


class Policed:
    """ASGI: adds the content policy to every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def with_policy(message):
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self.app(scope, receive, with_policy)


def serve(
    host: Host, *, address: str = Page.listen, port: int = Page.port, started: Callable[[str], None] = print
) -> None:
    """Serve until interrupted.

    address: of this machine; any but a loopback address lets others in.
    port: 0 for a free one. started: called with the page's address as soon as it answers.

    Raises:
        GraftError: Gradio is not installed, or the port is taken.
    """
    desk = Desk(host)
    app = application(desk, LOOPBACK if address in LOOPBACK else ())
    import uvicorn

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")
        try:
            listener.bind((address, port))
        except OSError as error:
            hint = "Choose another --port; 0 takes a free one."
            raise GraftError(f"{address}:{port} cannot be used: {error.strerror}", hint=hint) from error
        listener.listen(64)
        started(f"http://{f'[{address}]' if ':' in address else address}:{listener.getsockname()[1]}/")
        settings = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        finally:
            desk.queue.close(PATIENCE)
