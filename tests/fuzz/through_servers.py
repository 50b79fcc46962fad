"""Workflows, --set, manifests and servers: what comes in through the batch."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import json
import sys
from pathlib import Path
from random import Random

import hostile
from entrances import entrance
from promise import Broken, Sandbox

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))


def graph() -> dict:
    """The stand-in server's own workflow."""
    from fake_comfy import GRAPH

    return copy.deepcopy(GRAPH)


def _batch(random: Random, box: Sandbox, *, data: bytes, sets: list[str], share: float) -> str:
    """A whole batch on one strange server, in the time of the events."""
    from fake_comfy import run as in_its_time
    from lora_graft.batch import run
    from lora_graft.batch.workflow import load
    from lora_graft.cli.screen import show_batch
    from strange_server import Strange

    path = box.put("graph.json", data)
    fake = Strange("http://a:1", random, share)
    plan: list[str] = []

    async def main():
        beside = asyncio.create_task(fake.work())
        try:
            order = run.Order(sets, [fake.url], box.out, patience=30.0)
            return await run.carry_out(load(path), order, say=plan.append)
        finally:
            beside.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beside

    screen = io.StringIO()

    def work():
        old, run.Server = run.Server, lambda url, client: fake.server(url, client)
        try:
            with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(screen):
                summary = in_its_time(main())
                show_batch(summary, box.out, dry=False, leave=False)
        finally:
            run.Server = old

    outcome = box.call(work)
    box._check_screen(screen.getvalue())
    left = [p for p in box.out.rglob("*") if p.name.endswith(".part")]
    if left:
        raise Broken("partial", f"left {len(left)} unfinished files")
    for line in (box.out / "manifest.jsonl").read_bytes().splitlines() if (box.out / "manifest.jsonl").exists() else ():
        json.loads(line)
    return outcome


SETS = (
    "Draw v1.5.seed=1|2", "Load LoRA.lora=*.safetensors", "Good.text=a|b\\|c", "2.cfg=1.5", "Draw v1.5.tiled=true",
    "KSampler.sampler=euler", "Draw v1.5.extra.rank=4|8", "@", "Good.text=@list.txt",
)  # fmt: skip


@entrance("batch: server's answers")
def server(random: Random, box: Sandbox) -> str:
    sets = ["Draw v1.5.seed=" + "|".join(map(str, range(random.choice((1, 2, 5)))))]
    data = json.dumps(graph()).encode()
    return _batch(random, box, data=data, sets=sets, share=random.choice((0.02, 0.1, 0.5, 1.0)))


@entrance("batch: workflow and --set")
def workflow(random: Random, box: Sandbox) -> str:
    text = hostile.written(random, hostile.changed(random, graph(), random.choice((0.0, 0.1, 0.6))))
    data = text.encode("utf-8", "surrogatepass")
    data = hostile.bitten(random, data) if random.random() < 0.2 else data
    (box.work / "list.txt").write_bytes(hostile.bitten(random, b"a\nb\n\nc"))
    sets = []
    for _ in range(random.randrange(4)):
        text = random.choice(SETS)
        roll = random.random()
        if roll < 0.4:
            name, _, values = text.partition("=")
            text = random.choice(
                (f"{name}={hostile.text(random)}", f"{hostile.text(random)}={values}", hostile.text(random))
            )
        elif roll < 0.6:
            text = hostile.bitten(random, text.encode()).decode("utf-8", "replace")
        sets.append(text)
    return _batch(random, box, data=data, sets=sets, share=0.0)


@entrance("batch: manifest.jsonl")
def manifest(random: Random, box: Sandbox) -> str:
    job = "0123456789abcdef0123"
    lines = [
        {"event": "batch", "time": 1.0, "sets": [], "servers": ["http://a:1"], "jobs": 1, "missing": 1},
        {"event": "queued", "time": 2.0, "job": job, "prompt_id": "p", "server": "http://a:1", "values": {}},
        {"event": "done", "time": 3.0, "job": job, "prompt_id": "p", "server": "http://a:1", "files": []},
        {"event": "queued", "time": 4.0, "job": job, "prompt_id": "q", "server": "http://a:1", "values": {}},
    ]
    text = "\n".join(hostile.written(random, hostile.changed(random, line, 0.4)) for line in lines) + random.choice(
        ("", "\n")
    )
    data = text.encode("utf-8", "surrogatepass")
    (box.out / "manifest.jsonl").write_bytes(hostile.bitten(random, data) if random.random() < 0.3 else data)
    from lora_graft.batch.manifest import Manifest

    def work():
        with Manifest(box.out / "manifest.jsonl") as found:
            found.write("batch", sets=[], servers=[], jobs=0, missing=0)
            return found

    def check(found) -> None:
        if not all(isinstance(x, str) for x in found.past.done):
            raise Broken("wrong", "a job that is no text")

    return box.call(work, check)
