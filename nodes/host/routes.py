"""A route on ComfyUI's server that tells the editor what a LoRA file is, before anything runs."""

from __future__ import annotations

import asyncio

BASES = ("checkpoints", "diffusion_models")  # folders of files that a base is loaded from


def serve() -> None:
    """Add ``GET /lora_graft/lora?name=FILE[&folder=FOLDER&base=FILE]``; without a server, nothing.

    The answer is JSON: ``architecture``, ``ranks`` ([smallest, largest] or null), ``modules``, ``triggers``, ``size``,
    and with a base ``base`` (its architecture) and ``fits`` (true, false, or null where the file cannot tell). Only
    headers are read, and only of files that the host itself lists: 404 for others. A file that is no LoRA, as a folder
    of LoRAs may well hold, is answered with ``error`` alone.
    """
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @server.routes.get("/lora_graft/lora")
    async def lora(request: web.Request) -> web.Response:
        status, answer = await asyncio.to_thread(about, dict(request.query))
        return web.json_response(answer, status=status)


def about(asked: dict[str, str]) -> tuple[int, dict]:
    """(HTTP status, answer) for a route's query."""
    from ...errors import GraftError
    from ...jobs.glance import belongs, glance

    path, base = _listed("loras", asked.get("name", "")), None
    if path is None:
        return 404, {"error": "There is no such LoRA."}
    if "base" in asked:
        base = _listed(asked.get("folder", ""), asked["base"]) if asked.get("folder") in BASES else None
        if base is None:
            return 404, {"error": "There is no such base model."}
    try:
        found = glance(path)
        answer = {"architecture": found.architecture, "ranks": found.ranks, "modules": found.modules}
        answer |= {"triggers": found.triggers, "size": found.size}
        if base is not None:
            answer["base"], answer["fits"] = belongs(path, base)
    except GraftError as problem:
        return 200, {"error": problem.what}
    return 200, answer


def _listed(folder: str, name: str) -> str | None:
    """Full path of a file that the host lists in a models folder; None for every other name."""
    import folder_paths

    return folder_paths.get_full_path(folder, name) if name in folder_paths.get_filename_list(folder) else None
