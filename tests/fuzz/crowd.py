"""Many processes at once on one cache, one output, one manifest; two batches on one server; odd folders and clocks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import corpus
import fault_jobs
import faults
from every_job import JOBS, _shelf
from promise import _command, _runner

PATIENCE = 300  # seconds before a process counts as hanging


def together(count: int, work: Callable[[int], str]) -> Counter[str]:
    """What forked processes that begin at one moment return, counted; a traceback or a hang is an outcome too."""
    gate, opened = os.pipe()
    answers = [os.pipe() for _ in range(count)]
    children = []
    for number, (_, answer) in enumerate(answers):
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)
            os.close(opened)
            os.read(gate, 1)  # until the parent lets go
            try:
                found = work(number)
            except BaseException as error:
                found = f"{type(error).__name__}: {error}"
            os.write(answer, found.encode()[:4000])
            os._exit(0)
        children.append(child)
    os.close(gate)
    os.close(opened)
    outcomes: Counter[str] = Counter()
    for child, (mine, theirs) in zip(children, answers, strict=True):
        os.close(theirs)
        _, status = os.waitpid(child, 0)
        outcomes[os.read(mine, 4096).decode() if status == 0 else f"ended by signal {status}"] += 1
        os.close(mine)
    return outcomes


def _cli(*words: object) -> str:
    done = _runner().invoke(_command(), [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code == 0:
        return "done"
    return "exists already" if "exists already" in done.output else done.output[-200:]


def _transfer(root: Path, output: Path, *more: str) -> str:
    """The command, in the folder that `fault_jobs` fills."""
    bases = ("--source", root / "in" / "a.safetensors", "--target", root / "in" / "b.safetensors")
    how = ("--method", "lora-x", "--k", "2", *more)
    return _cli("transfer", root / "in" / "one.safetensors", *bases, *how, "-o", output)


def _fresh(root: Path, prepare: Callable[[Path], None] = fault_jobs._files) -> None:
    for name in ("in", "out", "cache"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    os.environ["LORA_GRAFT_CACHE"] = str(root / "cache")
    prepare(root)
    faults._forget_swept()


def _right(root: Path) -> bytes:
    """What one transfer alone writes."""
    _fresh(root)
    assert _transfer(root, root / "out" / "alone.safetensors") == "done"
    data = (root / "out" / "alone.safetensors").read_bytes()
    _fresh(root)
    return data


def _leftovers(root: Path) -> list[str]:
    return [f"left {path.name}" for path in root.rglob("*.part")]


def _unless(condition: object, what: str) -> list[str]:
    return [] if condition else [what]


def one_cache(root: Path, count: int) -> list[str]:
    """Each its own output; what one measures all use."""
    right = _right(root)
    outcomes = together(count, lambda number: _transfer(root, root / "out" / f"{number}.safetensors"))
    made = [path.read_bytes() for path in (root / "out").iterdir()]
    found = _unless(outcomes == {"done": count}, str(outcomes)) + _unless(made == [right] * count, "not all are equal")
    return found + _leftovers(root)


def one_small_cache(root: Path, count: int) -> list[str]:
    """Entries that are thrown out while others read them."""
    from lora_graft.jobs.cache import SubspaceCache
    from lora_graft.kernels.spectral import subspace

    _fresh(root)
    entries = {f"{number:064x}": subspace(corpus.draw(8, 6, seed=number), 2) for number in range(12)}

    def work(number: int) -> str:
        with patch("lora_graft.jobs.cache.FRESH", 0.0):
            cache = SubspaceCache(root / "cache", limit=3000)
            for key, right in list(entries.items())[number % 3 :] * 4:
                found = cache.get_or_compute(key, lambda here=right: here)
                if not found.left.equal(right.left) or not found.right.equal(right.right):
                    return "another entry"
        return "done"

    outcomes = together(count, work)
    return _unless(outcomes == {"done": count}, str(outcomes)) + _leftovers(root)


def one_output(root: Path, count: int) -> list[str]:
    """One of them has it, the others are told."""
    right, output = _right(root), root / "out" / "x.safetensors"
    outcomes = together(count, lambda _: _transfer(root, output))
    found = _unless(outcomes == {"done": 1, "exists already": count - 1}, str(outcomes))
    return found + _unless(output.read_bytes() == right, "not what one alone writes") + _leftovers(root)


def one_output_by_force(root: Path, count: int) -> list[str]:
    """All of them write it; it is whole."""
    right, output = _right(root), root / "out" / "x.safetensors"
    outcomes = together(count, lambda _: _transfer(root, output, "--force"))
    found = _unless(outcomes == {"done": count}, str(outcomes))
    return found + _unless(output.read_bytes() == right, "not what one alone writes") + _leftovers(root)


def one_folder(root: Path, count: int) -> list[str]:
    """*Save LoRA* with one prefix: each gets a number of its own."""
    _fresh(root)

    def work(_: int) -> str:
        fault_jobs._save(root)
        return "done"

    outcomes = together(count, work)
    names = sorted(path.name for path in (root / "out").iterdir())
    wanted = [f"x_{number:05}.safetensors" for number in range(1, count + 1)]
    return _unless(outcomes == {"done": count}, str(outcomes)) + _unless(names == wanted, str(names))


def one_shelf(root: Path, count: int) -> list[str]:
    """`transfer --all` into one folder: every result is whole, and who comes second is told."""
    _fresh(root, _shelf)
    assert JOBS["transfer --all"].run(root, False)
    right = faults._contents(root / "out")
    _fresh(root, _shelf)
    outcomes = together(count, lambda _: _try_shelf(root))
    found = _unless(outcomes.keys() <= {"done", "told"}, str(outcomes))
    return found + _unless(faults._contents(root / "out") == right, "not what one alone writes") + _leftovers(root)


def _try_shelf(root: Path) -> str:
    return "done" if JOBS["transfer --all"].run(root, False) else "told"


def one_manifest(root: Path, count: int) -> list[str]:
    """One batch has the folder, the others are told; its lines are its own."""
    from lora_graft.batch.manifest import NAME, Manifest
    from lora_graft.errors import GraftError

    _fresh(root)
    tried = root / "out" / "tried"

    def work(number: int) -> str:
        try:
            manifest = Manifest(root / "out" / NAME)
        except GraftError as error:
            _append(tried)
            return "told" if "another batch is running" in str(error) else str(error)
        with manifest:
            _append(tried)
            while tried.stat().st_size < count:
                time.sleep(0.01)
            for line in range(50):
                manifest.write("batch", jobs=line)
        return "done"

    outcomes = together(count, work)
    lines = [json.loads(line) for line in (root / "out" / NAME).read_bytes().splitlines()]
    found = _unless(outcomes == {"done": 1, "told": count - 1}, str(outcomes))
    return found + _unless([line["jobs"] for line in lines] == list(range(50)), "lines of others")


def _append(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b".")


def one_server(root: Path, count: int) -> list[str]:
    """Two batches on one ComfyUI, the second cancelled: the first has all its results, each drawn once."""
    from fake_comfy import GRAPH, FakeComfy
    from fake_comfy import run as in_its_time
    from lora_graft.batch import run
    from lora_graft.batch.workflow import Workflow

    _fresh(root)
    fake = FakeComfy("http://a:1", seconds=0.5)

    def batch(first: int, name: str):
        sets = ["Draw v1.5.seed=" + "|".join(str(first + number) for number in range(count))]
        order = run.Order(sets, [fake.url], root / "out" / name)
        return asyncio.create_task(run.carry_out(Workflow(GRAPH), order, say=lambda text: None))

    async def main():
        beside = asyncio.create_task(fake.work())
        one, other = batch(0, "one"), batch(500, "other")
        await asyncio.sleep(count / 4)
        other.cancel()
        with suppress(asyncio.CancelledError):
            await other
        summary = await one
        again = await batch(500, "other")
        beside.cancel()
        return summary, again

    with patch.object(run, "Server", lambda url, client: fake.server(url, client)):
        summary, again = in_its_time(main())
    found = _unless(summary.done == again.done == count, f"{summary.done} and {again.done} of {count}")
    drawn = Counter(fake.ran)
    wanted = [*range(count), *range(500, 500 + count)]
    return found + _unless(sorted(fake.ran) == wanted, f"drawn {drawn.most_common(3)}")


def a_cache_that_takes_nothing(root: Path, count: int) -> list[str]:
    """On a disk that is full or read-only from the beginning the work is done all the same."""
    right, found = _right(root), []
    for kind in ("full", "read-only"):
        _fresh(root)
        with faults.under(faults.Layer(root / "cache", 0, kind)):
            outcome = _transfer(root, root / "out" / "x.safetensors")
        same = outcome == "done" and (root / "out" / "x.safetensors").read_bytes() == right
        found += _unless(same and not os.listdir(root / "cache"), f"{kind}: {outcome}")
    return found


@contextmanager
def ignoring_case(root: Path) -> Iterator[None]:
    """Names below a folder as a file system takes them that does not tell A from a."""
    true = {name: getattr(os, name) for name in ("stat", "open", "link", "replace", "unlink")}

    def kept(path):
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not text.casefold().startswith(str(root).casefold()):
            return path
        place = str(root)
        for part in Path(text[len(str(root)) :].lstrip(os.sep)).parts:
            same = [name for name in os.listdir(place) if name.casefold() == part.casefold()] if _isdir(place) else []
            place = os.path.join(place, same[0] if same else part)
        return place

    def _isdir(place):
        with suppress(OSError):
            return true["stat"](place).st_mode & 0o40000
        return False

    def through(function, paths: int):
        return lambda *given, **more: function(*map(kept, given[:paths]), *given[paths:], **more)

    for name, function in true.items():
        setattr(os, name, through(function, 2 if name in ("link", "replace") else 1))
    try:
        yield
    finally:
        for name, function in true.items():
            setattr(os, name, function)


def names_that_differ_in_case(root: Path, count: int) -> list[str]:
    """Two LoRAs whose outputs would be one file there: refused before anything is written, even by force."""
    _fresh(root, _shelf)
    (root / "out" / "new").mkdir()
    (root / "in" / "loras" / "two.safetensors").rename(root / "in" / "loras" / "ONE.safetensors")
    with ignoring_case(root / "out"), patch.dict(os.environ, {"LORA_GRAFT_CACHE": str(root / "cache")}):
        words = ["--source", root / "in" / "a.safetensors", "--target", root / "in" / "b.safetensors", "--force"]
        told = _cli("transfer", "--all", root / "in" / "loras" / "*", *words, "-o", root / "out" / "new")
    names = [path.name for path in (root / "cache").iterdir()]
    found = _unless("does not tell" in told and not os.listdir(root / "out" / "new"), told)
    return found + _unless(names == [name.lower() for name in names], "names in the cache")


def a_clock_that_jumps(root: Path, count: int) -> list[str]:
    """A day forth and back between any two looks at it, and entries from the future."""
    from lora_graft.jobs import cache as module

    right, found, real = _right(root), [], time.time
    jumps = iter(range(10**9))
    with patch("time.time", lambda: real() + (-1) ** next(jumps) * 86400.0):
        outcome = _transfer(root, root / "out" / "x.safetensors")
        found += _unless(outcome == "done" and (root / "out" / "x.safetensors").read_bytes() == right, outcome)
        found += _unless(JOBS["batch"].prepare(root) is None and JOBS["batch"].run(root, False), "batch")
    from lora_graft.kernels.spectral import subspace

    _fresh(root)
    cache = module.SubspaceCache(root / "cache", limit=3000)
    for number in range(12):
        cache.put(f"{number:064x}", subspace(corpus.draw(8, 6, seed=number), 2))
        for path in (root / "cache").iterdir():
            os.utime(path, (real() + 10 * 365 * 86400.0,) * 2)
    return found + _unless(
        (root / "cache" / f"{11:064x}.safetensors").exists(), "entries from the future stay for ever"
    )


def too_little_memory(root: Path, count: int) -> list[str]:
    """Under limits of the process, a merge of whole weights is done or says what lacks and what to lower."""
    import resource

    import torch

    size, key = 3000, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    halves = {".lora_up.weight": (size, 4), ".lora_down.weight": (4, size)}
    given = [root / "in" / f"{name}.safetensors" for name in ("one", "two")]

    def merged(output: Path) -> str:
        outcome = _cli("merge", *given, "--method", "ties", "--rank", "2", "-o", output)
        return "told" if "not enough memory" in outcome and "Merge fewer LoRAs" in outcome else outcome

    def limited(megabytes: int) -> str:
        with open("/proc/self/statm") as status:
            now = int(status.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (megabytes << 20),) * 2)
        return merged(root / "out" / f"{megabytes}.safetensors")

    _fresh(root)
    torch.set_num_threads(1)
    assert merged(root / "out" / "x.safetensors") == "done"  # all is imported
    _fresh(root, lambda root: None)
    for seed, file in enumerate(given):
        tensors = {key + name: corpus.draw(*shape, seed=seed) for name, shape in halves.items()}
        file.write_bytes(corpus.File(tensors, {}).to_bytes())
    outcomes: Counter[str] = Counter()
    for megabytes in [*range(16, 16 + 4 * count, 4), 4000]:
        outcomes += together(1, lambda _, limit=megabytes: limited(limit))
    found = _unless(outcomes.keys() == {"done", "told"}, str(outcomes))
    made = len(list((root / "out").iterdir()))
    return found + _unless(made == outcomes["done"], "partial outputs") + _leftovers(root)


CASES = {
    "one cache": one_cache,
    "one cache, too small": one_small_cache,
    "one output": one_output,
    "one output, --force": one_output_by_force,
    "one folder of Save LoRA": one_folder,
    "one folder of transfer --all": one_shelf,
    "one manifest": one_manifest,
    "two batches on one server": one_server,
    "a cache on a full or read-only disk": a_cache_that_takes_nothing,
    "a file system that does not tell A from a": names_that_differ_in_case,
    "a clock that jumps": a_clock_that_jumps,
    "too little memory": too_little_memory,
}
