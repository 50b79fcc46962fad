"""HTTP routes for scripts, under ``/lora-graft/v1/``; the table of fields is their documentation.

They work with both generations of pydantic: bodies are plain JSON, checked against the same table as the page.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from ..errors import GraftError
from ..untrusted import parse_json, visible
from .desk import Desk, told
from .distilling import available
from .fields import JOBS, Field
from .sites import cross_site

ROOT = "/lora-graft/v1"
LARGEST = 2 * 2**20  # bytes of a body
TAG: list[Any] = ["LoRA Graft"]


def register(app: FastAPI, desk: Desk, allowed: Callable[[Request], bool] = lambda request: True) -> None:
    """Add the routes to a host's application.

    allowed: whether a request has the host's leave, as a user and password may be needed.
    """

    def guard(request: Request) -> None:
        if not allowed(request):
            raise HTTPException(401, "user and password are needed", {"WWW-Authenticate": "Basic"})

    def guard_post(request: Request) -> None:
        guard(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, "the body must be application/json")
        if cross_site(request.headers, desk.host.origins):
            raise HTTPException(403, "a page of another site may not do this")

    def get(path: str, summary: str, answer: Callable[..., Any]) -> None:
        app.add_api_route(ROOT + path, answer, methods=["GET"], summary=summary, tags=TAG, response_model=None)

    def bases(request: Request):
        guard(request)
        return {"bases": list(desk.host.bases())}

    def loras(request: Request):
        guard(request)
        return {"loras": list(desk.host.loras())}

    def jobs(request: Request):
        guard(request)
        return {"jobs": [told(job) for job in desk.queue.jobs()]}

    def job(number: int, request: Request):
        guard(request)
        found = desk.queue.job(number)
        if found is None:
            raise HTTPException(404, "there is no such job")
        return told(found, whole=True)

    def stop(number: int, request: Request):
        guard_post(request)
        found = desk.queue.job(number)
        if found is None:
            raise HTTPException(404, "there is no such job")
        desk.queue.stop(number)
        return told(found)

    def starter(kind: str):
        async def start(request: Request):
            guard_post(request)
            try:
                given = parse_json(await _body(request) or b"{}")
            except ValueError:
                raise HTTPException(422, "the body is no JSON") from None
            try:
                return told(await run_in_threadpool(desk.start, kind, given))
            except GraftError as error:
                raise HTTPException(422, visible(str(error))) from None

        return start

    get("/bases", "Names of the base models", bases)
    get("/loras", "Names of the LoRAs", loras)
    get("/jobs", "All jobs, the latest first", jobs)
    get("/jobs/{number}", "One job, with its report when it is done", job)
    app.add_api_route(
        f"{ROOT}/jobs/{{number}}/stop", stop, methods=["POST"], summary="Stop a job", tags=TAG, response_model=None
    )
    for kind in offered():
        app.add_api_route(
            f"{ROOT}/jobs/{kind}",
            starter(kind),
            methods=["POST"],
            summary=f"Line up: {kind}",
            tags=TAG,
            response_model=None,
            name=f"lora_graft_{kind}",
            openapi_extra={
                "requestBody": {"required": True, "content": {"application/json": {"schema": schema(kind)}}}
            },
        )


def offered() -> list[str]:
    """The kinds of jobs that can be done here."""
    return [kind for kind in JOBS if kind != "distill" or available()]


def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a job's settings."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: _property(field) for field in JOBS[kind]},
        "required": [field.name for field in JOBS[kind] if field.needed],
    }


def _property(field: Field) -> dict[str, Any]:
    text = {"type": "string"}
    entry = {
        "type": "object",
        "properties": {"name": text, "strength": {"type": "number"}, "strength_clip": {"type": "number"}},
        "required": ["name"],
    }
    kinds: dict[str, dict[str, Any]] = {
        "choice": {**text, "enum": list(field.choices)},
        "number": {"type": "number"},
        "whole": {"type": "integer"},
        "flag": {"type": "boolean"},
        "lines": {"type": "array", "items": text},
        "shelf": {"type": "array", "items": text},
        "loras": {"oneOf": [text, {"type": "array", "items": {"oneOf": [text, entry]}}]},
    }
    bounds = {"minimum": field.low, "maximum": field.high}
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return {
        **kinds.get(field.kind, text),
        **{name: bound for name, bound in bounds.items() if bound is not None},
        **({} if default is None or field.needed else {"default": default}),
        "title": field.label,
        "description": field.help,
    }


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, "the body is too large")
    return body
