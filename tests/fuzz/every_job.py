"""All jobs that `faults` and `moments` break: those of `fault_jobs`, and the long ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
sys.path.insert(0, str(Path(__file__).parent))
import fault_jobs
from fault_jobs import command
from faults import Work


def _shelf(root: Path) -> None:
    fault_jobs._files(root)
    (root / "in" / "loras").mkdir()
    for name in ("one", "two"):
        (root / "in" / f"{name}.safetensors").rename(root / "in" / "loras" / f"{name}.safetensors")


class _Here:
    """`jobs.processes.Processes` without processes: what it would do in them is done here, where it can be broken."""

    def __init__(self, count, set_up, given, *, threads=1):
        set_up(given)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def each(self, task, items, progress, label=str) -> Iterator:
        from lora_graft.jobs.processes import guarded

        items = list(items)
        for number, item in enumerate(items, 1):
            result, reason = guarded(task, item)
            progress(number, len(items), label(item))
            yield item, result, reason


def _few_held_out(work: Work) -> Work:
    """Four noisy latents to measure with are enough where nothing is measured."""

    def run(root: Path, force: bool) -> bool | None:
        from lora_graft.jobs.distill import noisy_latents, train

        with patch.object(noisy_latents, "HELD_OUT", 4), patch.object(train, "HELD_OUT", 4):
            return work.run(root, force)

    return Work(**{**vars(work), "run": run})


def _without_processes(work: Work) -> Work:
    def run(root: Path, force: bool) -> bool | None:
        with patch("lora_graft.jobs.processes.Processes", _Here):
            return work.run(root, force)

    return Work(**{**vars(work), "run": run})


def _pictures(root: Path) -> None:
    import numpy as np
    from PIL import Image

    dice = np.random.default_rng(0)
    for folder, light in (("real", 120), ("generated", 0)):
        (root / "in" / folder).mkdir()
        for number in range(3):
            pixels = dice.integers(0, 100, (16, 16, 3)) + light
            Image.fromarray(pixels.astype(np.uint8)).save(root / "in" / folder / f"{number}.png")


SEEDS = 3
_servers: dict[Path, object] = {}  # by root: a server goes on while its client is broken and started again


def _queue(root: Path) -> None:
    from fake_comfy import GRAPH, FakeComfy

    (root / "in" / "graph.json").write_text(json.dumps(GRAPH))
    _servers[root] = FakeComfy("http://a:1")


def _in_its_time(fake):
    """`batch.run.interruptible`, with the server beside it and the events' own time for a clock."""
    from fake_comfy import run

    def interruptible(work):
        async def main():
            task, loop = asyncio.current_task(), asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, task.cancel)
            beside = asyncio.create_task(fake.work())
            try:
                return await work
            finally:
                beside.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await beside

        try:
            return run(main())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    return interruptible


def _batch() -> Work:
    words = ("batch", "in/graph.json", "--set", "Draw v1.5.seed=" + "|".join(map(str, range(SEEDS))))
    work = command(*words, "--server", "http://a:1", "-o", "out/", prepare=_queue, outputs=())

    def run(root: Path, force: bool) -> bool | None:
        from lora_graft.batch import run as module
        from lora_graft.batch import worker

        fake = _servers[root]
        with (
            patch.multiple(worker, POLL=0.05, HURRY=0.002, RETRY=0.01),
            patch.object(module, "Server", lambda url, client: fake.server(url, client)),
            patch.object(module, "interruptible", _in_its_time(fake)),
        ):
            return work.run(root, False)

    return Work(run, _queue, (MANIFEST,), over=False, goes_on=True, readable={MANIFEST: _lines}, varying=(MANIFEST,))


MANIFEST = "manifest.jsonl"


def _lines(path: Path) -> bool:
    """A manifest of whole lines; the last one may be cut."""
    *whole, _ = path.read_bytes().split(b"\n")
    return all(json.loads(line)["event"] for line in whole)


def _ends(path: Path) -> bool:
    """A report that tells how long it took, to its last line."""
    return path.read_bytes().startswith(b"old") or path.read_bytes().endswith(b"\n")


REPORTS = ("one.safetensors", "one.md", "two.safetensors", "two.md")
JOBS: dict[str, Work] = {
    **fault_jobs.JOBS,
    "transfer --all": _without_processes(command(
        "transfer", "--all", "in/loras/*", "--source", "in/a.safetensors", "--target", "in/b.safetensors", "--method",
        "lora-x", "--k", "2", "--reports", "md", "-o", "out/", prepare=_shelf, says=("Failed: ", "Error: "),
        outputs=REPORTS, apart=True,
    )),
    "discriminator": command(
        "discriminator", "--real", "in/real", "--generated", "in/generated", "-o", "out/d.safetensors",
        prepare=_pictures, outputs=("d.safetensors",),
    ),
    "batch": _batch(),
    "distill": _few_held_out(command(
        "distill", "family_frame_a", "--source", "family_a", "--target", "family_s", "--count", "2", "--draw-steps",
        "1", "--noisy-latents", "2", "--steps", "2", "--batch", "4", "--accumulation", "1", "--rank", "2",
        "--checkpoint-every", "1", "-o", "out/x.safetensors", "--report", "out/r.md", prepare=lambda root: None,
        outputs=("x.safetensors", "r.md"), readable={"r.md": _ends}, varying=("r.md",),
    )),
}  # fmt: skip
